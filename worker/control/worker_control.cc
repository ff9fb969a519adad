#include "worker/control/worker_control.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/timers.h"

namespace baton::worker {

namespace {

// A burst of submits and one report per step; a box this full means that the thread stands still.
constexpr size_t kMailboxCapacity = 65536;
constexpr size_t kBlocksPerReport = 50'000;  // 800 KB

RequestId request_of(const WorkerMessage& message) {
  if (const auto* m = std::get_if<SubmitReply>(&message)) return m->request;
  if (const auto* m = std::get_if<TransferReport>(&message)) return m->request;
  if (const auto* m = std::get_if<Released>(&message)) return m->request;
  return RequestId();
}

}  // namespace

WorkerControl::WorkerControl(const WorkerControlParts& parts) : parts_(parts), mailbox_(kMailboxCapacity) {}

WorkerControl::~WorkerControl() {
  mailbox_.close();
  membership_.reset();
  server_.reset();
}

absl::StatusOr<std::unique_ptr<WorkerControl>> WorkerControl::start(const WorkerControlOptions& options,
                                                                    const WorkerControlParts& parts) {
  std::unique_ptr<WorkerControl> control(new WorkerControl(parts));
  WorkerControl* self = control.get();
  transport::ControlServerOptions server;
  server.listen = options.listen;
  server.advertise = options.advertise;
  server.security = options.security;
  ASSIGN_OR_RETURN(control->server_,
                   transport::ControlServer::start(
                       server, options.worker,
                       [self](transport::ControlServerEvent e) { return self->mailbox_.post(std::move(e)); },
                       [self](const CoordinatorHello& hello) { return self->admit(hello); }));
  ASSIGN_OR_RETURN(control->membership_,
                   transport::MembershipClient::create(
                       options.join, options.security, control->server_->worker(),
                       [self](transport::MembershipEvent e) { (void)self->mailbox_.post(std::move(e)); }));
  return control;
}

void WorkerControl::publish(std::vector<WorkerMessage>& messages) {
  BATON_CHECK(mailbox_.post(Published{std::move(messages)}) || mailbox_.closed(),
              "the control thread stands still");
  messages.clear();
}

void WorkerControl::on_peer(const PeerReport& report) { (void)mailbox_.post(report); }
void WorkerControl::on_grammar(RequestId request) { (void)mailbox_.post(Compiled{request}); }
void WorkerControl::begin_drain() { (void)mailbox_.post(Drain{}); }

void WorkerControl::run(std::stop_token stop) {
  std::vector<Event> events;
  while (!stop.stop_requested() && !mailbox_.closed()) {
    const Instant now = parts_.clock.now();
    mailbox_.drain(events);
    for (Event& event : events) std::visit([&](auto& e) { on(e, now); }, event);
    events.clear();
    post_waiting();
    check_silence(now);
    server_->tick(now);
    Instant next = now + timers::kHeartbeat;
    if (!draining_) next = std::min(next, membership_->tick(now));
    mailbox_.wait_until(next);
  }
}

void WorkerControl::on(const transport::ControlServerEvent& event, Instant now) {
  if (const auto* opened = std::get_if<transport::CoordinatorOpened>(&event)) return on_opened(*opened, now);
  if (const auto* said = std::get_if<transport::CoordinatorSaid>(&event)) {
    const auto found = by_stream_.find(said->stream);
    if (found == by_stream_.end()) return;  // a stream that was replaced
    coordinators_.at(found->second).heard = now;
    return on_said(std::string(found->second), said->stream, said->message);
  }
  on_closed(std::get<transport::CoordinatorClosed>(event), now);
}

// Requests of all coordinators share one prefix cache, so these must agree on what its hashes mean. A
// coordinator with another key is welcome when nobody else is there: then the old key's blocks are of no use
// to anybody. Thread: gRPC.
absl::Status WorkerControl::admit(const CoordinatorHello& hello) {
  std::lock_guard lock(admission_mutex_);
  const bool alone = admitted_.empty() || (admitted_.size() == 1 && admitted_.contains(hello.coordinator_id));
  if (!alone && hello.hash_key != hash_key_)
    return absl::FailedPreconditionError("another coordinator with another hash key is connected");
  hash_key_ = hello.hash_key;
  admitted_.insert(hello.coordinator_id);
  return absl::OkStatus();
}

void WorkerControl::on_opened(const transport::CoordinatorOpened& opened, Instant now) {
  Coordinator& coordinator = coordinators_[opened.hello.coordinator_id];
  abandon_requests(coordinator);
  by_stream_.erase(coordinator.stream);
  coordinator.stream = opened.stream;
  coordinator.connected = true;
  coordinator.heard = now;
  by_stream_[opened.stream] = opened.hello.coordinator_id;
  {
    std::lock_guard lock(admission_mutex_);  // again: the close of its older stream may have come in between
    admitted_.insert(opened.hello.coordinator_id);
  }
  if (opened.hello.hash_key != engine_key_) cached_.clear();
  engine_key_ = opened.hello.hash_key;
  post(SetHashKey{opened.hello.hash_key});
  send_cached_blocks(opened.stream);
  log_info("coordinator stream opened",
           {{"coordinator", opened.hello.coordinator_id}, {"term", opened.hello.term}});
}

void WorkerControl::on_closed(const transport::CoordinatorClosed& closed, Instant now) {
  const auto found = by_stream_.find(closed.stream);
  if (found == by_stream_.end()) return;
  const std::string id = found->second;
  Coordinator& coordinator = coordinators_.at(id);
  coordinator.heard = now;
  disconnected(id, coordinator);
  log_info("coordinator stream closed", {{"coordinator", id}, {"why", closed.why.ToString()}});
}

void WorkerControl::disconnected(const std::string& id, Coordinator& coordinator) {
  by_stream_.erase(coordinator.stream);
  coordinator.connected = false;
  std::lock_guard lock(admission_mutex_);
  admitted_.erase(id);
}

void WorkerControl::on_said(const std::string& coordinator, transport::StreamId stream,
                            const CoordinatorMessage& message) {
  if (const auto* submit = std::get_if<Submit>(&message)) return on_submit(coordinator, *submit);
  if (const auto* release = std::get_if<Release>(&message)) return on_release(coordinator, *release);
  if (const auto* connect = std::get_if<ConnectPeer>(&message)) {
    if (!parts_.connect_peer(connect->peer))
      on(PeerReport{.peer = connect->peer.ref, .error = "the data plane is overloaded"}, parts_.clock.now());
    return;
  }
  if (const auto* fence = std::get_if<FencePeer>(&message)) {
    if (!parts_.fence_peer(fence->peer))
      log_error("fence not passed on: the data plane stands still", {{"peer", fence->peer.name}});
    return;
  }
  if (const auto* ping = std::get_if<Ping>(&message)) server_->send(stream, pong(ping->number));
}

Pong WorkerControl::pong(uint64_t number) const {
  const EngineStatus engine = parts_.engine_status();
  Pong out{.number = number, .load = engine.load, .draining = draining_};
  if (!engine.step_running) return out;
  out.step_age = std::max(parts_.clock.now() - engine.last_turn, Duration::zero());
  out.step_predicted = from_seconds(std::max(engine.counters.last_predicted_seconds, 0.0));
  return out;
}

void WorkerControl::on_submit(const std::string& coordinator, const Submit& submit) {
  const RequestId id = submit.request.id;
  const auto refuse = [&](RefuseReason reason, const std::string& detail) {
    server_->send(coordinators_.at(coordinator).stream,
                  SubmitReply{.request = id, .leg = submit.leg, .reason = reason, .detail = detail});
  };
  // Also a second Submit of the same coordinator: the engine's Released would be taken for the new one's.
  if (owners_.contains(id)) return refuse(RefuseReason::kInvalid, "the request is here already");
  if (draining_) return refuse(RefuseReason::kDraining, "this worker drains");
  if (!waiting_.empty() || !pass_on(submit))
    return refuse(RefuseReason::kOverloaded,
                  "the engine's mailbox is full, or too many grammars wait to be compiled");
  owners_[id] = coordinator;
  coordinators_.at(coordinator).requests.insert(id);
}

// To the engine; with a grammar when that is compiled. False: no room.
bool WorkerControl::pass_on(const Submit& submit) {
  if (submit.request.grammar.empty() || !parts_.compile)
    return parts_.engine.post(CoordinatorMessage(submit));
  if (!parts_.compile(submit.request.id, submit.request.grammar)) return false;
  held_.emplace(submit.request.id, Held{submit});
  return true;
}

void WorkerControl::on(const Compiled& compiled, Instant) {
  const auto held = held_.find(compiled.request);
  if (held == held_.end()) {
    if (parts_.forget_grammar) parts_.forget_grammar(compiled.request);
    return;
  }
  const bool released = held->second.released;
  post(CoordinatorMessage(std::move(held->second.submit)));
  held_.erase(held);
  if (released) post(CoordinatorMessage(Release{compiled.request}));
}

// Behind its Submit.
void WorkerControl::release(RequestId request) {
  const auto held = held_.find(request);
  if (held != held_.end()) {
    held->second.released = true;
  } else {
    post(CoordinatorMessage(Release{request}));
  }
}

void WorkerControl::on_release(const std::string& coordinator, const Release& said) {
  // Unknown: it was Released already, and that message is ahead of this one's answer.
  const auto owner = owners_.find(said.request);
  if (owner != owners_.end() && owner->second == coordinator) release(said.request);
}

void WorkerControl::on(const transport::MembershipEvent& event, Instant) {
  if (const auto* joined = std::get_if<transport::Joined>(&event)) {
    log_info("joined", {{"coordinator", joined->accepted.coordinator_id}, {"term", joined->accepted.term}});
  } else if (const auto* failed = std::get_if<transport::JoinFailed>(&event)) {
    log_warn("join failed", {{"why", failed->why.ToString()}});
  } else if (const auto* lost = std::get_if<transport::LeaseLost>(&event)) {
    log_warn("lease lost", {{"why", lost->why.ToString()}});
  } else {
    const auto& fenced = std::get<transport::Fenced>(event);
    log_error("fenced: this life is over", {{"why", fenced.why.ToString()}});
    parts_.on_fenced(fenced.why);
  }
}

void WorkerControl::on(Published& published, Instant) {
  for (const WorkerMessage& message : published.messages) {
    if (const auto* report = std::get_if<StepReport>(&message)) {
      note_blocks(*report);
      send_step(*report);
      continue;
    }
    const RequestId request = request_of(message);
    send_to_owner(request, message);
    const auto* reply = std::get_if<SubmitReply>(&message);
    if (std::holds_alternative<Released>(message) || (reply && !reply->accepted)) forget(request);
  }
}

void WorkerControl::forget(RequestId request) {
  const auto owner = owners_.find(request);
  if (owner == owners_.end()) return;
  if (const auto found = coordinators_.find(owner->second); found != coordinators_.end())
    found->second.requests.erase(request);
  owners_.erase(owner);
  if (parts_.forget_grammar) parts_.forget_grammar(request);
}

void WorkerControl::note_blocks(const StepReport& report) {
  cached_.insert(report.blocks_stored.begin(), report.blocks_stored.end());
  for (const BlockHash& hash : report.blocks_evicted) cached_.erase(hash);
  last_step_ = std::max(last_step_, report.step);
}

// A coordinator that comes later sees the same prefix index as those that heard every step.
void WorkerControl::send_cached_blocks(transport::StreamId stream) {
  StepReport report{.step = last_step_, .load = parts_.engine_status().load};
  for (const BlockHash& hash : cached_) {
    report.blocks_stored.push_back(hash);
    if (report.blocks_stored.size() < kBlocksPerReport) continue;
    server_->send(stream, report);
    report.blocks_stored.clear();
  }
  if (!report.blocks_stored.empty()) server_->send(stream, report);
}

// Blocks and load are everybody's business, tokens their owner's.
void WorkerControl::send_step(const StepReport& report) {
  if (by_stream_.size() == 1 && std::ranges::all_of(report.sequences, [&](const SequenceTokens& s) {
        const auto owner = owners_.find(s.request);
        return owner != owners_.end() && owner->second == by_stream_.begin()->second;
      })) {
    server_->send(by_stream_.begin()->first, report);
    return;
  }
  for (const auto& [stream, coordinator] : by_stream_) {
    StepReport own{.step = report.step,
                   .blocks_stored = report.blocks_stored,
                   .blocks_evicted = report.blocks_evicted,
                   .load = report.load};
    for (const SequenceTokens& s : report.sequences)
      if (const auto owner = owners_.find(s.request); owner != owners_.end() && owner->second == coordinator)
        own.sequences.push_back(s);
    server_->send(stream, own);
  }
}

void WorkerControl::on(const PeerReport& report, Instant) {
  const auto known = lanes_.find(report.peer);
  const bool rate_only =
      report.connected && report.error.empty() && known != lanes_.end() && known->second == report.lane;
  if (!rate_only)  // those are in the metrics
    log_info(report.connected ? "peer connected" : "peer not connected",
             {{"peer", report.peer.name},
              {"incarnation", report.peer.incarnation.value()},
              {"lane", report.lane},
              {"bytes_per_second", report.bytes_per_second},
              {"why", report.error}});
  if (report.connected) lanes_[report.peer] = report.lane;
  if (!report.connected) lanes_.erase(report.peer);
  send_all(report);
}

void WorkerControl::on(const Drain&, Instant) {
  if (draining_) return;
  draining_ = true;
  for (const auto& [id, held] : std::exchange(held_, {})) {
    send_to_owner(id, SubmitReply{.request = id,
                                  .leg = held.submit.leg,
                                  .reason = RefuseReason::kDraining,
                                  .detail = "this worker drains"});
    forget(id);
  }
  post(SetDraining{true});
  membership_->leave();
  send_all(pong(0));
}

void WorkerControl::send_all(const WorkerMessage& message) {
  for (const auto& [stream, coordinator] : by_stream_) server_->send(stream, message);
}

void WorkerControl::send_to_owner(RequestId request, const WorkerMessage& message) {
  const auto owner = owners_.find(request);
  if (owner == owners_.end()) return;
  const auto found = coordinators_.find(owner->second);
  if (found != coordinators_.end() && found->second.connected) server_->send(found->second.stream, message);
}

// What must not be lost waits for room. It cannot grow for long: submits are refused meanwhile.
void WorkerControl::post(EngineCommand command) {
  if (waiting_.empty() && parts_.engine.post(command)) return;
  waiting_.push_back(std::move(command));
}

void WorkerControl::post_waiting() {
  while (!waiting_.empty() && parts_.engine.post(waiting_.front())) waiting_.pop_front();
}

// Nobody hears of them any more; they are remembered until the engine says Released.
void WorkerControl::abandon_requests(Coordinator& coordinator) {
  for (const RequestId request : coordinator.requests) {
    owners_[request].clear();
    release(request);
  }
  coordinator.requests.clear();
}

// A coordinator that says nothing (not even a ping) has gone, whatever its socket pretends. When this thread
// comes late, what coordinators said meanwhile may lie unread: that time does not count.
void WorkerControl::check_silence(Instant now) {
  const Duration late = now - last_turn_ - Duration(timers::kHeartbeat);
  const bool stalled = last_turn_ != Instant() && late >= timers::kHeartbeat;
  last_turn_ = now;
  for (auto& [id, coordinator] : coordinators_) {
    if (stalled) coordinator.heard = std::min(now, coordinator.heard + late);
    if (now - coordinator.heard < timers::kDead) continue;
    if (coordinator.connected) {
      server_->close(coordinator.stream, absl::DeadlineExceededError("nothing heard from the coordinator"));
      disconnected(id, coordinator);
      log_warn("coordinator silent: its stream is closed", {{"coordinator", id}});
    }
    abandon_requests(coordinator);
  }
  std::erase_if(coordinators_,
                [](const auto& c) { return !c.second.connected && c.second.requests.empty(); });
}

}  // namespace baton::worker
