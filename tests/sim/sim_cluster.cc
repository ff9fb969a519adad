#include "tests/sim/sim_cluster.h"

#include <algorithm>

#include "base/check.h"
#include "tests/sim/message_text.h"

namespace baton::sim {

using std::chrono::microseconds;
using std::chrono::milliseconds;

SimCluster::SimCluster(const SimOptions& options) : options_(options), rng_(options.seed) {
  clock_.set(Instant{} + std::chrono::hours(1));
  support::FakeKvOptions fabric;
  fabric.layers = options.layers;
  fabric.drains_after_death = options.drains_after_death;
  fabric.jitter = [this](Duration d) { return jitter(d); };
  fabric.fails = [this](TransferId, int) { return rng_.next_double() < options_.transfer_fault; };
  fabric_ = std::make_unique<support::FakeKvFabric>(std::move(fabric), clock_);
  core_ = std::make_unique<coordinator::ControlCore>(options.control, *this);
  for (const std::string& name : options.workers) start(name);
}

SimCluster::~SimCluster() = default;

void SimCluster::at(Instant when, std::function<void()> action) {
  heap_.emplace(std::pair(std::max(when, now()), next_event_++), std::move(action));
}

Duration SimCluster::jitter(Duration around) {
  return Duration(static_cast<int64_t>(static_cast<double>(around.count()) * (0.5 + rng_.next_double())));
}

// ---- workers ------------------------------------------------------------------------------------

Duration SimCluster::way() {
  const Duration usual = jitter(microseconds(150));
  const double luck = rng_.next_double();
  if (luck < options_.stall) return usual + microseconds(rng_.below(1'100'000));
  if (luck < options_.stall + options_.lag) return usual + microseconds(rng_.below(20'000));
  return usual;
}

void SimCluster::start(const std::string& name) {
  SimWorkerOptions w;
  WorkerDescription& d = w.description;
  d.ref = {name, Incarnation(next_incarnation_++)};
  d.role = name[0] == 'p' ? WorkerRole::kPrefill : name[0] == 'd' ? WorkerRole::kDecode : WorkerRole::kAny;
  d.control_address = name + ":1";
  d.model_hash = "kvhash";
  d.kv_layout_hash = "layout";
  d.numerics_id = "exact";
  d.block_tokens = options_.block_tokens;
  d.context_tokens = options_.context_tokens;
  d.blocks_total = options_.blocks;
  w.layers = options_.layers;
  w.host_blocks = options_.host_blocks;
  w.hash_key = options_.control.flow.hash_key;
  w.scheduler.context_tokens = options_.context_tokens;
  w.scheduler.token_budget = 512;
  w.scheduler.max_running = 64;
  lives_.push_back(std::make_unique<SimWorker>(
      w, *fabric_, clock_,
      [this](Instant when, std::function<void()> action) { at(when, std::move(action)); },
      [this, index = lives_.size()](WorkerMessage m) { publish(*lives_[index], std::move(m)); }));
  SimWorker* const worker = lives_.back().get();
  live_[name] = worker;
  streams_[d.ref] = Stream{.worker = worker};
  log_.line(now(), name, " starts ", to_string(d.ref.incarnation));
  after(jitter(milliseconds(2)), [this, worker] { join(*worker); });
}

void SimCluster::join(SimWorker& worker) {
  if (!worker.alive()) return;
  command(coordinator::JoinWorker{worker.description(), [&worker](absl::StatusOr<uint64_t> lease) {
                                    BATON_CHECK(lease.ok(), worker.ref().name.c_str());
                                  }});
}

void SimCluster::heartbeat(SimWorker& worker) {
  if (!worker.alive() || !streams_[worker.ref()].open) return;
  publish(worker, Pong{.load = worker.engine().load(), .step_age = worker.step_age()});
  after(timers::kHeartbeat, [this, &worker] { heartbeat(worker); });
}

void SimCluster::kill(const std::string& name, bool frozen, Duration restart_after) {
  const auto it = live_.find(name);
  if (it == live_.end()) return;
  SimWorker& worker = *it->second;
  log_.line(now(), name, frozen ? " freezes " : " dies ", to_string(worker.ref().incarnation));
  worker.kill();
  live_.erase(it);
  if (!frozen) {
    after(jitter(milliseconds(3)),
          [this, ref = worker.ref()] { command(coordinator::StreamClosed{ref, true, "connection reset"}); });
  }
  after(restart_after, [this, name] { start(name); });
}

void SimCluster::stand_still(const std::string& name) {
  const auto it = live_.find(name);
  if (it == live_.end()) return;
  log_.line(now(), name, " stands still");
  it->second->stand_still();
}

// ---- streams ------------------------------------------------------------------------------------

void SimCluster::connect(const WorkerRef& ref, const std::string&) {
  after(jitter(microseconds(500)), [this, ref] {
    Stream& stream = streams_[ref];
    if (!stream.worker->alive()) return;  // membership waits for the lease to end
    stream.open = true;
    command(coordinator::StreamOpened{stream.worker->description()});
    heartbeat(*stream.worker);
  });
}

void SimCluster::disconnect(const WorkerRef& ref) {
  Stream& stream = streams_[ref];
  stream.open = false;
  if (!stream.worker->alive()) return;
  // Given up although it lives (its words came too late): it is cut off before anybody is told to fence it,
  // as the data plane does, and starts again.
  log_.line(now(), ref.name, " is cut off ", to_string(ref.incarnation));
  stream.worker->kill();
  live_.erase(ref.name);
  after(milliseconds(200), [this, name = ref.name] { start(name); });
}

void SimCluster::send(const WorkerRef& ref, CoordinatorMessage message) {
  Stream& stream = streams_[ref];
  BATON_CHECK(stream.worker != nullptr && stream.open, "sent to a worker without a stream");
  stream.last_down = std::max(stream.last_down, now() + way());
  log_.line(now(), "to ", ref.name, " ", text(message));
  at(stream.last_down, [this, worker = stream.worker, message = std::move(message)]() mutable {
    deliver(*worker, std::move(message));
  });
}

void SimCluster::deliver(SimWorker& worker, CoordinatorMessage message) {
  if (!worker.alive()) return;
  touched_.insert(&worker);
  if (const auto* connect = std::get_if<ConnectPeer>(&message)) {
    const auto peer = streams_.find(connect->peer.ref);
    const bool there = peer != streams_.end() && peer->second.worker->alive();
    after(jitter(milliseconds(1)), [this, &worker, ref = connect->peer.ref, there] {
      publish(worker, PeerReport{.peer = ref, .connected = there, .lane = "fake", .bytes_per_second = 1e9});
    });
    return;
  }
  worker.receive(std::move(message));
}

void SimCluster::publish(SimWorker& worker, WorkerMessage message) {
  if (!worker.alive()) return;
  Stream& stream = streams_[worker.ref()];
  stream.last_up = std::max(stream.last_up, now() + way());
  // One in 500 is seen a second time much later, when its sender may long be dead: a ghost. Only words about
  // requests that are over can be repeated without breaking the order of the stream, so only ghosts of the
  // dead are delivered.
  if (rng_.below(500) == 0) {
    at(stream.last_up + jitter(std::chrono::seconds(1)), [this, &worker, message] {
      if (!worker.alive() && core_->membership().find(worker.ref()) == nullptr)
        to_coordinator(worker.ref(), message, now());
    });
  }
  to_coordinator(worker.ref(), std::move(message), stream.last_up);
}

void SimCluster::to_coordinator(const WorkerRef& ref, WorkerMessage message, Instant when) {
  at(when, [this, ref, message = std::move(message)]() mutable {
    log_.line(now(), "from ", ref.name, " ", text(message));
    command(coordinator::WorkerMessageArrived{ref, std::move(message)});
  });
}

void SimCluster::command(coordinator::ControlCommand command) { core_->handle(std::move(command), now()); }

void SimCluster::submit(GenerateRequest request, std::shared_ptr<coordinator::RequestSink> sink) {
  log_.line(now(), "submit ", to_string(request.id), " ", request.prompt.size(), "+",
            request.stop.max_tokens);
  command(coordinator::SubmitRequest{std::move(request), std::move(sink)});
}

void SimCluster::cancel(RequestId request) {
  log_.line(now(), "cancel ", to_string(request));
  command(coordinator::CancelRequest{request});
}

// ---- time ---------------------------------------------------------------------------------------

Instant SimCluster::next_worker_deadline() const {
  Instant next = kNever;
  for (const auto& [name, worker] : live_) next = std::min(next, worker->next_deadline());
  return next;
}

bool SimCluster::one_event() {
  const Instant heap = heap_.empty() ? kNever : heap_.begin()->first.first;
  const Instant network = fabric_->next_event();
  const Instant control = core_->next_deadline();
  const Instant workers = next_worker_deadline();
  const Instant next = std::min({heap, network, control, workers});
  if (next == kNever) return false;
  clock_.set(std::max(now(), next));
  if (heap == next) {
    auto action = std::move(heap_.begin()->second);
    heap_.erase(heap_.begin());
    action();
  } else if (network == next) {
    fabric_->run_due();
  } else if (control == next) {
    core_->on_tick(now());
  } else {
    for (const auto& [name, worker] : live_) {
      if (worker->next_deadline() <= now()) worker->wake();
    }
  }
  ++events_;
  return true;
}

bool SimCluster::run(const std::function<bool()>& done, Instant limit) {
  Instant at_this_time = now();
  int same_time = 0;
  while (!done()) {
    if (now() >= limit || !one_event()) return false;
    check();
    same_time = now() == at_this_time ? same_time + 1 : 0;
    at_this_time = now();
    BATON_CHECK(same_time < 100000, "time stands still");
  }
  return true;
}

// ---- invariants ---------------------------------------------------------------------------------

void SimCluster::check() {
  // Which worker an event touched is known for messages; the others are looked at in turn, one per event.
  if (!live_.empty()) touched_.insert(std::next(live_.begin(), events_ % live_.size())->second);
  for (SimWorker* const worker : touched_) {
    worker->check(events_ % 64 < live_.size());
    if (worker->alive()) check_holdings(*worker);
  }
  touched_.clear();
  if (events_ % 16 == 0) core_->flow().check_invariants();
}

// I5: whatever a live worker holds, the ledger knows.
void SimCluster::check_holdings(const SimWorker& worker) const {
  const coordinator::Ledger& ledger = core_->flow().ledger();
  if (core_->membership().find(worker.ref()) == nullptr) return;  // given up: its holdings die with it
  for (const auto& [id, sequence] : worker.engine().scheduler().sequences()) {
    const coordinator::LedgerLeg* const leg = ledger.find(sequence->request.id, worker.ref());
    BATON_CHECK(leg != nullptr, "a worker holds what the ledger does not know");
    BATON_CHECK(leg->leg == sequence->leg &&
                (leg->leg == Leg::kWhole || leg->transfer == sequence->transfer));
  }
  size_t may_transfer = 0;
  for (const auto& [request, entry] : ledger.entries()) {
    const auto leg = entry.find(worker.ref());
    may_transfer += leg != entry.end() && leg->second.leg != Leg::kWhole;
  }
  BATON_CHECK(worker.engine().cache().pool().open_transfers() <= may_transfer,
              "a worker holds a transfer that the ledger does not know");
}

std::string SimCluster::not_quiet_on(const SimWorker& worker) const {
  const worker::BlockPool& pool = worker.engine().cache().pool();
  if (!worker.engine().idle()) return absl::StrCat(worker.ref().name, " is not idle");
  if (pool.free() + pool.idle_count() != pool.size()) {
    return absl::StrCat(worker.ref().name, ": ", pool.free(), " free + ", pool.idle_count(), " cached of ",
                        pool.size());
  }
  return pool.open_transfers() == 0 ? "" : absl::StrCat(worker.ref().name, " has open transfers");
}

std::string SimCluster::why_not_quiet() const {
  const coordinator::RequestFlow& flow = core_->flow();
  if (flow.in_flight() > 0) return absl::StrCat(flow.in_flight(), " requests in flight");
  if (!flow.ledger().empty()) return absl::StrCat(flow.ledger().legs(), " legs in the ledger");
  if (!core_->router().assignments().empty()) return "assignments without a leg";
  if (fabric_->open() > 0) return absl::StrCat(fabric_->open(), " open transfers");
  for (const auto& [name, worker] : live_) {
    if (std::string why = not_quiet_on(*worker); !why.empty()) return why;
  }
  return "";
}

bool SimCluster::quiet() const { return why_not_quiet().empty(); }

}  // namespace baton::sim
