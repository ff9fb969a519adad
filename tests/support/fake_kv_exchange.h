#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "tests/support/kvhash_executor.h"
#include "worker/kv_cache/kv_exchange.h"

namespace baton::support {

struct FakeKvOptions {
  int layers = 2;
  Duration piece_delay = std::chrono::microseconds(200);    // one (chunk, layer)
  Duration control_delay = std::chrono::microseconds(100);  // an event on its way to an engine
  Duration drain_delay =
      std::chrono::microseconds(500);             // an ended transfer until nobody moves bytes; > control
  Duration one_sided = std::chrono::seconds(10);  // a send without grant, or a grant without send, ends
  bool drains_after_death = true;            // false: what a dead source left half landed waits for fence()
  std::function<Duration(Duration)> jitter;  // applied to every delay
  std::function<bool(TransferId, int layer)> fails;  // asked at each piece: the transfer fails there
  std::function<TokenId(TransferId)> first_token;    // a source that lies about it
};

// The network between in-process workers on virtual time: moves KvHashPool slots, and is as nasty as a real
// one may be. Source slots are read, and destination slots written, when a piece arrives, also between the
// abort of a transfer and its drained event; so a block that is given away too early is found out by its
// hash. Drive: whenever clock >= next_event(), call run_due(); it calls the sinks. Thread: one.
class FakeKvFabric {
 public:
  using Sink = worker::KvEventSink;

  FakeKvFabric(FakeKvOptions options, const Clock& clock) : options_(std::move(options)), clock_(clock) {}

  // The exchange of a life of a worker. `pool` and what `sink` touches must outlive leave() or the fabric.
  worker::KvExchange& join(const WorkerRef& ref, KvHashPool& pool, Sink sink) {
    auto& slot = endpoints_[ref];
    BATON_CHECK(slot == nullptr, "a life joins once");
    slot = std::make_unique<Endpoint>(*this, ref, pool, std::move(sink));
    return *slot;
  }
  // That life died: nothing is read from or written to its pool any more, its sink is not called.
  void leave(const WorkerRef& ref) {
    Endpoint& dead = *endpoints_.at(ref);
    dead.alive = false;
    std::vector<TransferId> hit;
    for (auto& [id, link] : links_)
      if ((link.destination != nullptr && (link.destination == &dead || link.grant.source == ref)) ||
          (link.source != nullptr && (link.source == &dead || link.send.destination == ref)))
        hit.push_back(id);
    for (TransferId id : hit) end(id, "peer died", Told::kNobody);
  }
  // `at` is told that this life of a peer, which left, is over: nothing of it writes there any more.
  void fence(const WorkerRef& at, const WorkerRef& dead) {
    fenced_.insert({at, dead});
    const auto [first, last] = undrained_.equal_range({at, dead});
    for (auto it = first; it != last; ++it) tell(endpoints_.at(at).get(), it->second, options_.drain_delay);
    undrained_.erase(first, last);
  }

  Instant next_event() const { return events_.empty() ? kNever : events_.begin()->first.first; }
  bool run_due() {
    bool any = false;
    while (next_event() <= clock_.now()) {
      auto action = std::move(events_.begin()->second);
      events_.erase(events_.begin());
      action();
      any = true;
    }
    return any;
  }
  size_t open() const { return links_.size(); }
  uint64_t pieces_moved() const { return pieces_moved_; }
  // Slots that were free (and poisoned) at the source when they were read: its blocks were given back too
  // early.
  uint64_t stale_reads() const { return stale_reads_; }

 private:
  struct Endpoint final : worker::KvExchange {
    Endpoint(FakeKvFabric& f, WorkerRef r, KvHashPool& p, Sink s)
        : fabric(f), ref(std::move(r)), pool(p), sink(std::move(s)) {}
    absl::Status expect(const worker::KvGrant& grant) override { return fabric.expect(*this, grant); }
    void abandon(TransferId id) override { fabric.end(id, "abandoned by the receiver", Told::kDestination); }
    absl::Status send(const worker::KvSend& send) override { return fabric.send(*this, send); }
    void layer_ready(TransferId id, int layer, int32_t tokens, int32_t) override {
      fabric.layer_ready(id, layer, tokens);
    }
    void finish(TransferId id, const TokenOutput& first, FinishReason finish) override {
      fabric.finish(id, first, finish);
    }
    void cancel(TransferId id) override { fabric.end(id, "cancelled by the sender", Told::kNobody); }
    int open_transfers() const override { return fabric.open_of(*this); }

    FakeKvFabric& fabric;
    const WorkerRef ref;
    KvHashPool& pool;
    const Sink sink;
    bool alive = true;
  };
  struct Link {
    Endpoint* source = nullptr;
    Endpoint* destination = nullptr;
    worker::KvSend send;
    worker::KvGrant grant;
    std::vector<int32_t> ready, posted, arrived;  // tokens, by layer
    int in_flight = 0;
    std::optional<TokenOutput> first_token;
    FinishReason finish = FinishReason::kNone;
    bool ended = false;
    std::string why;
    Instant begun{};
  };
  enum class Told { kNobody, kDestination };  // who knows of the end already

  absl::Status expect(Endpoint& endpoint, const worker::KvGrant& grant) {
    const auto source = endpoints_.find(grant.source);
    if (source == endpoints_.end() || !source->second->alive)
      return absl::FailedPreconditionError("unknown peer " + grant.source.name);
    Link& link = open_link(grant.transfer);
    link.destination = &endpoint;
    link.grant = grant;
    if (gone_.contains(grant.transfer))
      end(grant.transfer, "the sender gave up", Told::kNobody);
    else
      pump(grant.transfer);
    return absl::OkStatus();
  }
  absl::Status send(Endpoint& endpoint, const worker::KvSend& send) {
    const auto destination = endpoints_.find(send.destination);
    if (destination == endpoints_.end() || !destination->second->alive)
      return absl::FailedPreconditionError("unknown peer " + send.destination.name);
    Link& link = open_link(send.transfer);
    link.source = &endpoint;
    link.send = send;
    if (gone_.contains(send.transfer)) end(send.transfer, "the receiver gave up", Told::kNobody);
    return absl::OkStatus();
  }
  Link& open_link(TransferId id) {
    Link& link = links_[id];
    if (link.ready.empty()) {
      link.ready.resize(static_cast<size_t>(options_.layers));
      link.posted = link.arrived = link.ready;
      link.begun = clock_.now();
      at(options_.one_sided, [this, id] {
        const auto it = links_.find(id);
        if (it != links_.end() && (it->second.source == nullptr || it->second.destination == nullptr))
          end(id, "the other side did not come", Told::kNobody);
      });
    }
    return link;
  }
  void layer_ready(TransferId id, int layer, int32_t tokens) {
    const auto it = links_.find(id);
    if (it == links_.end()) return;
    BATON_CHECK(tokens >= it->second.ready[static_cast<size_t>(layer)] &&
                tokens <= it->second.send.prompt_tokens);
    it->second.ready[static_cast<size_t>(layer)] = tokens;
    pump(id);
  }
  void finish(TransferId id, const TokenOutput& first, FinishReason finish) {
    const auto it = links_.find(id);
    if (it == links_.end()) return;
    BATON_CHECK(
        std::ranges::all_of(it->second.ready, [&](int32_t t) { return t == it->second.send.prompt_tokens; }),
        "finish before every layer was ready");
    it->second.first_token = first;
    if (options_.first_token) it->second.first_token->token = options_.first_token(id);
    it->second.finish = finish;
    land_if_complete(id);
  }
  // Posts what is ready and was not posted.
  void pump(TransferId id) {
    Link& link = links_.at(id);
    if (link.ended || link.source == nullptr || link.destination == nullptr) return;
    const int32_t held = link.grant.first_block * link.destination->pool.block_tokens();
    for (int layer = 0; layer < options_.layers; ++layer) {
      const auto l = static_cast<size_t>(layer);
      const int32_t from = std::max(link.posted[l], held);
      const int32_t to = link.ready[l];
      if (to <= from) continue;
      link.posted[l] = to;
      ++link.in_flight;
      at(options_.piece_delay, [this, id, layer, from, to] { arrive(id, layer, from, to); });
    }
    land_if_complete(id);
  }
  void arrive(TransferId id, int layer, int32_t from, int32_t to) {
    Link& link = links_.at(id);
    --link.in_flight;
    if (link.source->alive && link.destination->alive) copy(link, layer, from, to);
    auto& arrived = link.arrived[static_cast<size_t>(layer)];
    arrived = std::max(arrived, to);
    if (link.ended) return settle(id);
    if (options_.fails && options_.fails(id, layer)) return end(id, "injected fault", Told::kNobody);
    land_if_complete(id);
  }
  void copy(Link& link, int layer, int32_t from, int32_t to) {
    const int32_t size = link.source->pool.block_tokens();
    for (int32_t p = from; p < to; ++p) {
      const BlockId source = link.send.blocks[static_cast<size_t>(p / size)];
      const BlockId target = link.grant.blocks[static_cast<size_t>(p / size - link.grant.first_block)];
      stale_reads_ += link.source->pool.poisoned(layer, source, p % size);
      link.destination->pool.at(layer, target, p % size) = link.source->pool.at(layer, source, p % size);
    }
    ++pieces_moved_;
  }
  void land_if_complete(TransferId id) {
    Link& link = links_.at(id);
    if (link.ended || !link.first_token || link.destination == nullptr || link.in_flight > 0) return;
    for (size_t l = 0; l < link.arrived.size(); ++l)
      if (link.arrived[l] < link.send.prompt_tokens) return;
    BATON_CHECK(link.grant.prompt_tokens == link.send.prompt_tokens);
    const TransferReport report = report_of(id, link, true);
    tell(link.destination, worker::KvLanded{id, *link.first_token, link.finish, report},
         options_.control_delay);
    tell(link.source, worker::KvDrained{.transfer = id, .as_source = true}, options_.control_delay);
    links_.erase(id);
  }
  void end(TransferId id, const std::string& why, Told told) {
    const auto it = links_.find(id);
    if (it == links_.end() || it->second.ended) return;
    Link& link = it->second;
    link.ended = true;
    link.why = why;
    gone_.insert(id);
    if (link.destination != nullptr && told != Told::kDestination)
      tell(link.destination, worker::KvFailed{id, why, report_of(id, link, false)}, options_.control_delay);
    settle(id);
  }
  // Nobody moves bytes any more: both sides may have their blocks back.
  void settle(TransferId id) {
    Link& link = links_.at(id);
    if (link.in_flight > 0) return;
    if (link.destination != nullptr) {
      const bool dead_source = link.source != nullptr && !link.source->alive;
      const std::pair pair(link.destination->ref, link.grant.source);
      worker::KvDrained drained{.transfer = id, .as_source = false, .error = link.why};
      if (options_.drains_after_death || !dead_source || fenced_.contains(pair))
        tell(link.destination, std::move(drained), options_.drain_delay);
      else
        undrained_.emplace(pair, std::move(drained));
    }
    if (link.source != nullptr)
      tell(link.source, worker::KvDrained{.transfer = id, .as_source = true, .error = link.why},
           options_.drain_delay);
    links_.erase(id);
  }
  TransferReport report_of(TransferId id, const Link& link, bool ok) const {
    return {.transfer = id,
            .request = link.grant.request,
            .ok = ok,
            .error = link.why,
            .duration = clock_.now() - link.begun,
            .lane = "fake"};
  }
  // Events of one transfer to one side keep their order whatever the jitter.
  void tell(Endpoint* endpoint, worker::KvEvent event, Duration delay) {
    const TransferId id = std::visit([](const auto& e) { return e.transfer; }, event);
    auto& last = last_told_[{id, endpoint->ref}];
    last = std::max(last, clock_.now() + jittered(delay));
    schedule(last, [endpoint, event = std::move(event)] {
      if (endpoint->alive) endpoint->sink(event);
    });
  }
  Duration jittered(Duration delay) const { return options_.jitter ? options_.jitter(delay) : delay; }
  void at(Duration delay, std::function<void()> action) {
    schedule(clock_.now() + jittered(delay), std::move(action));
  }
  void schedule(Instant when, std::function<void()> action) {
    events_.emplace(std::pair(when, next_++), std::move(action));
  }
  int open_of(const Endpoint& endpoint) const {
    int open = 0;
    for (const auto& [id, link] : links_) open += link.source == &endpoint || link.destination == &endpoint;
    return open;
  }

  const FakeKvOptions options_;
  const Clock& clock_;
  std::map<WorkerRef, std::unique_ptr<Endpoint>> endpoints_;
  std::map<TransferId, Link> links_;
  std::set<TransferId> gone_;
  std::set<std::pair<WorkerRef, WorkerRef>> fenced_;                             // by whom, who
  std::multimap<std::pair<WorkerRef, WorkerRef>, worker::KvDrained> undrained_;  // of dead sources
  std::map<std::pair<TransferId, WorkerRef>, Instant> last_told_;
  std::map<std::pair<Instant, uint64_t>, std::function<void()>> events_;
  uint64_t next_ = 0;
  uint64_t pieces_moved_ = 0;
  uint64_t stale_reads_ = 0;
};

}  // namespace baton::support
