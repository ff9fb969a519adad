#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/support/fake_host_copies.h"
#include "tests/support/fake_kv_exchange.h"
#include "tests/support/kvhash_executor.h"
#include "worker/engine/engine.h"

namespace baton::support {

struct EngineWorldOptions {
  worker::EngineOptions engine;
  KvHashOptions model;
  FakeKvOptions kv;
  FakeHostOptions host;  // with engine.host.slots
  bool check_every_step = true;
};

// What the coordinator heard of one leg.
struct LegRecord {
  bool replied = false;
  bool accepted = false;
  RefuseReason refused = RefuseReason::kNone;
  std::string detail;
  int32_t cached_tokens = 0;
  std::vector<TokenId> tokens;
  std::vector<TokenOutput> prompt_tokens;
  size_t most_prompt_tokens = 0;  // in one report
  FinishReason finish = FinishReason::kNone;
  std::string error;
  int released = 0;
};

// Engines on virtual time with the KvHash model, joined by a FakeKvFabric: messages reach an engine between
// its steps, a step takes the time the model says, free blocks are poisoned before each step, and what an
// engine promises the coordinator (engine.h) is checked at every message. Thread: one.
class EngineWorld {
 public:
  explicit EngineWorld(EngineWorldOptions options)
      : options_(std::move(options)), fabric_(options_.kv, clock_) {}

  // The index of a new worker.
  size_t add(const std::string& name, uint64_t incarnation = 1) {
    workers_.push_back(std::make_unique<Worker>(*this, WorkerRef{name, Incarnation(incarnation)}));
    return workers_.size() - 1;
  }
  void submit(size_t to, GenerateRequest request, Leg leg = Leg::kWhole, TransferId transfer = {},
              std::optional<size_t> peer = {}) {
    Submit submit{.request = std::move(request), .leg = leg, .transfer = transfer};
    if (peer) submit.peer = workers_[*peer]->ref;
    legs_[{to, submit.request.id, leg}] = {};
    post(to, CoordinatorMessage(std::move(submit)));
  }
  // Both legs of a split request.
  void submit_split(size_t prefill, size_t decode, const GenerateRequest& request) {
    const TransferId transfer(next_transfer_++);
    submit(decode, request, Leg::kDecode, transfer, prefill);
    submit(prefill, request, Leg::kPrefill, transfer, decode);
  }
  void release(size_t at, RequestId request) { post(at, CoordinatorMessage(Release{request})); }
  void fence(size_t at, size_t dead) { fabric_.fence(workers_[at]->ref, workers_[dead]->ref); }
  void kill(size_t which) {
    workers_[which]->alive = false;
    fabric_.leave(workers_[which]->ref);
  }

  // Does what is due now, or else moves time on to what comes next. False when nothing will ever happen any
  // more, or nothing before `limit`.
  bool turn(Instant limit = kNever) {
    bool did = fabric_.run_due();
    for (auto& worker : workers_) did |= worker->alive && worker->host.run_due();
    for (auto& worker : workers_) did |= worker->alive && worker->turn();
    if (did) return true;
    Instant next = fabric_.next_event();
    for (auto& worker : workers_) next = std::min({next, worker->next(), worker->next_copy()});
    if (next == kNever || next > limit) return false;
    BATON_CHECK(next > clock_.now(), "time stands still");
    clock_.set(next);
    return true;
  }
  void run(Instant limit = kNever) {
    for (uint64_t turns = 0; turn(limit); ++turns) BATON_CHECK(turns < 10'000'000, "no end");
  }
  void run_for(Duration time) {
    const Instant limit = clock_.now() + time;
    run(limit);
    clock_.set(limit);
  }

  LegRecord& leg(size_t at, RequestId request, Leg leg = Leg::kWhole) { return legs_.at({at, request, leg}); }
  // The tokens of a split request: the first from the prefill leg, the rest from the decode leg.
  std::vector<TokenId> split_tokens(size_t prefill, size_t decode, RequestId request) {
    std::vector<TokenId> tokens = leg(prefill, request, Leg::kPrefill).tokens;
    const auto& rest = leg(decode, request, Leg::kDecode).tokens;
    tokens.insert(tokens.end(), rest.begin(), rest.end());
    return tokens;
  }
  worker::Engine& engine(size_t at) { return workers_[at]->engine; }
  KvHashExecutor& executor(size_t at) { return workers_[at]->executor; }
  FakeHostCopies& host(size_t at) { return workers_[at]->host; }
  FakeKvFabric& fabric() { return fabric_; }
  ManualClock& clock() { return clock_; }
  uint64_t events() const { return events_; }

  // Every living worker holds nothing but cached blocks, every accepted leg on it was released exactly once,
  // and the index that a router would have built from the reports is the engine's own.
  void expect_clean() {
    EXPECT_EQ(fabric_.stale_reads(), 0u);
    for (size_t i = 0; i < workers_.size(); ++i) {
      Worker& worker = *workers_[i];
      if (!worker.alive) continue;
      EXPECT_TRUE(worker.engine.idle()) << worker.ref.name;
      worker.engine.check_invariants();
      EXPECT_EQ(static_cast<int64_t>(worker.router_index.size()), worker.engine.cache().findable());
      EXPECT_EQ(worker.host.stale_reads(), 0u);
      const LoadSnapshot load = worker.engine.load();
      EXPECT_EQ(load.blocks_free + load.blocks_cached, worker.engine.cache().pool().size());
      EXPECT_EQ(load.running + load.waiting + load.transfers_open, 0);
    }
    for (const auto& [key, leg] : legs_) {
      const auto& [at, request, kind] = key;
      if (!workers_[at]->alive) continue;
      EXPECT_TRUE(leg.replied || leg.released > 0) << to_string(request);
      if (leg.accepted) {
        EXPECT_EQ(leg.released, 1) << to_string(request) << " leg " << static_cast<int>(kind);
      }
    }
  }

 private:
  using Key = std::tuple<size_t, RequestId, Leg>;

  struct Worker {
    Worker(EngineWorld& w, WorkerRef r)
        : world(w),
          ref(std::move(r)),
          index(w.workers_.size()),
          pool(w.options_.kv.layers, w.options_.engine.blocks, w.options_.engine.block_tokens),
          executor(pool, w.options_.model),
          host(pool, w.clock_, w.options_.host,
               [this](worker::HostCopied e) { copied.push_back(std::move(e)); }),
          engine(with_host(w.options_.engine, host),
                 w.fabric_.join(ref, pool, [this](worker::KvEvent e) { events.push_back(std::move(e)); })) {
      engine.set_hash_key({1, 2});
    }
    static worker::EngineOptions with_host(worker::EngineOptions options, FakeHostCopies& host) {
      options.host.copies = &host;
      return options;
    }
    Instant next_copy() const { return alive ? host.next_event() : kNever; }
    Instant next() const {
      if (!alive) return kNever;
      return busy ? until : engine.next_deadline();
    }
    // As EngineLoop, with an engine thread that is busy `until`.
    bool turn() {
      const Instant now = world.clock_.now();
      if (busy && now < until) return false;
      busy = false;
      if (finishes) return finish();
      const bool told = !inbox.empty() || !events.empty() || !copied.empty();
      for (const auto& message : std::exchange(inbox, {})) engine.on_message(message, now);
      for (const auto& event : std::exchange(events, {})) engine.on_kv_event(event, now);
      for (const auto& event : std::exchange(copied, {})) engine.on_host_copied(event, now);
      engine.on_tick(now);
      if (world.options_.check_every_step) engine.check_invariants();
      pool.poison_free(engine.cache().pool());
      const worker::StepPlan* plan = engine.plan(now);
      publish();
      if (plan != nullptr) start(*plan);
      finishes = engine.oldest() != nullptr && (plan == nullptr || engine.full());
      if (finishes) be_busy(running.front().ends);
      return told || plan != nullptr || finishes;
    }
    // Each stage takes an equal part of the step, one plan after the other. A device that feeds tokens back
    // has the whole step, and the thread is free soon.
    void start(const worker::StepPlan& plan) {
      Running& step = running.emplace_back();
      const absl::Status status = executor.start(plan, [&](int l) { engine.on_layer(plan, l); }, step.result);
      EXPECT_TRUE(status.ok()) << status.message();
      BATON_CHECK(status.ok(), "the model read KV that is not its own");
      if (plan.id.value() % 4 != 0) engine.prepare();  // both orders, and changes from one to the other
      const int stages =
          world.options_.model.feeds_back ? 16 : world.options_.engine.scheduler.plans_in_flight;
      const Duration stage = step.result.duration / stages;
      be_busy(world.clock_.now() + stage);
      step.ends = std::max(until, last_end) + step.result.duration - stage;
      last_end = step.ends;
    }
    bool finish() {
      const worker::StepPlan& plan = *engine.oldest();
      const absl::Status status =
          executor.finish(plan, [&](int l) { engine.on_layer(plan, l); }, running.front().result);
      EXPECT_TRUE(status.ok()) << status.message();
      BATON_CHECK(status.ok(), "the model read KV that is not its own");
      engine.on_step_done(running.front().result, world.clock_.now());
      running.pop_front();
      finishes = false;
      publish();
      return true;
    }
    void be_busy(Instant time) {
      busy = true;
      until = std::max(until, time);
    }
    void publish() {
      std::vector<WorkerMessage> out;
      engine.drain_messages(out);
      for (const WorkerMessage& message : out) world.on_message(index, message);
    }

    EngineWorld& world;
    const WorkerRef ref;
    const size_t index;
    bool alive = true;
    KvHashPool pool;
    KvHashExecutor executor;
    std::vector<CoordinatorMessage> inbox;
    std::vector<worker::KvEvent> events;
    std::vector<worker::HostCopied> copied;
    FakeHostCopies host;
    worker::Engine engine;
    struct Running {
      worker::StepResult result;
      Instant ends{};
    };
    std::deque<Running> running;
    bool busy = false, finishes = false;
    Instant until{}, last_end{};
    std::set<BlockHash> router_index;
  };

  void post(size_t to, CoordinatorMessage message) { workers_[to]->inbox.push_back(std::move(message)); }

  void on_message(size_t from, const WorkerMessage& message) {
    ++events_;
    if (const auto* reply = std::get_if<SubmitReply>(&message)) on_reply(from, *reply);
    if (const auto* report = std::get_if<StepReport>(&message)) on_report(from, *report);
    if (const auto* released = std::get_if<Released>(&message)) {
      LegRecord& leg = legs_.at({from, released->request, released->leg});
      EXPECT_EQ(leg.released++, 0) << "released twice " << to_string(released->request);
    }
  }
  void on_reply(size_t from, const SubmitReply& reply) {
    LegRecord& leg = legs_.at({from, reply.request, reply.leg});
    EXPECT_FALSE(leg.replied);
    EXPECT_EQ(leg.released, 0);
    EXPECT_EQ(reply.accepted, reply.reason == RefuseReason::kNone);
    leg.replied = true;
    leg.accepted = reply.accepted;
    leg.refused = reply.reason;
    leg.detail = reply.detail;
    leg.cached_tokens = reply.cached_tokens;
  }
  void on_report(size_t from, const StepReport& report) {
    for (const SequenceTokens& s : report.sequences) {
      LegRecord& leg = legs_.at({from, s.request, s.leg});
      EXPECT_TRUE(leg.accepted) << "tokens before the reply";
      EXPECT_EQ(leg.released, 0) << "tokens after Released";
      EXPECT_EQ(leg.finish, FinishReason::kNone) << "tokens after the finish of " << to_string(s.request);
      EXPECT_EQ(s.finish >= FinishReason::kError, !s.error.empty());
      for (const TokenOutput& token : s.tokens) leg.tokens.push_back(token.token);
      EXPECT_TRUE(s.prompt_tokens.empty() || leg.tokens.empty()) << "the prompt after the first token";
      leg.prompt_tokens.insert(leg.prompt_tokens.end(), s.prompt_tokens.begin(), s.prompt_tokens.end());
      leg.most_prompt_tokens = std::max(leg.most_prompt_tokens, s.prompt_tokens.size());
      leg.finish = s.finish;
      leg.error = s.error;
    }
    auto& index = workers_[from]->router_index;
    for (const BlockHash& hash : report.blocks_evicted) EXPECT_EQ(index.erase(hash), 1u);
    for (const BlockHash& hash : report.blocks_stored) EXPECT_TRUE(index.insert(hash).second);
  }

  const EngineWorldOptions options_;
  ManualClock clock_;
  FakeKvFabric fabric_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::map<Key, LegRecord> legs_;
  uint64_t next_transfer_ = 1;
  uint64_t events_ = 0;
};

}  // namespace baton::support
