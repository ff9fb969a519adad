#include "worker/control/worker_control.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "base/timers.h"

namespace baton::worker {

namespace {

// A burst of submits and one report per step; a box this full means that the thread stands still.
constexpr size_t kMailboxCapacity = 65536;

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
  server.security = options.security;
  ASSIGN_OR_RETURN(control->server_, transport::ControlServer::start(
                                         server, options.worker, [self](transport::ControlServerEvent e) {
                                           return self->mailbox_.post(std::move(e));
                                         }));
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
void WorkerControl::begin_drain() { (void)mailbox_.post(Drain{}); }

void WorkerControl::run(std::stop_token stop) {
  std::vector<Event> events;
  while (!stop.stop_requested() && !mailbox_.closed()) {
    const Instant now = parts_.clock.now();
    mailbox_.drain(events);
    for (Event& event : events) std::visit([&](auto& e) { on(e, now); }, event);
    events.clear();
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
  const auto& closed = std::get<transport::CoordinatorClosed>(event);
  const auto found = by_stream_.find(closed.stream);
  if (found == by_stream_.end()) return;
  Coordinator& coordinator = coordinators_.at(found->second);
  coordinator.connected = false;
  coordinator.heard = now;
  log_info("coordinator stream closed", {{"coordinator", found->second}, {"why", closed.why.ToString()}});
  by_stream_.erase(found);
}

void WorkerControl::on_opened(const transport::CoordinatorOpened& opened, Instant now) {
  Coordinator& coordinator = coordinators_[opened.hello.coordinator_id];
  release_all(coordinator);
  by_stream_.erase(coordinator.stream);
  coordinator.stream = opened.stream;
  coordinator.connected = true;
  coordinator.heard = now;
  by_stream_[opened.stream] = opened.hello.coordinator_id;
  post(SetHashKey{opened.hello.hash_key});
  log_info("coordinator stream opened",
           {{"coordinator", opened.hello.coordinator_id}, {"term", opened.hello.term}});
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
  if (const auto* ping = std::get_if<Ping>(&message))
    server_->send(stream,
                  Pong{.number = ping->number, .load = parts_.engine_status().load, .draining = draining_});
}

void WorkerControl::on_submit(const std::string& coordinator, const Submit& submit) {
  const RequestId id = submit.request.id;
  const auto refuse = [&](RefuseReason reason, const std::string& detail) {
    server_->send(coordinators_.at(coordinator).stream,
                  SubmitReply{.request = id, .leg = submit.leg, .reason = reason, .detail = detail});
  };
  if (const auto owner = owners_.find(id); owner != owners_.end() && owner->second != coordinator)
    return refuse(RefuseReason::kInvalid, "this request id belongs to another coordinator");
  if (draining_) return refuse(RefuseReason::kDraining, "this worker drains");
  if (!parts_.engine.post(CoordinatorMessage(submit)))
    return refuse(RefuseReason::kOverloaded, "the engine's mailbox is full");
  owners_[id] = coordinator;
  coordinators_.at(coordinator).requests.insert(id);
}

void WorkerControl::on_release(const std::string& coordinator, const Release& release) {
  // Unknown: it was Released already, and that message is ahead of this one's answer.
  const auto owner = owners_.find(release.request);
  if (owner != owners_.end() && owner->second == coordinator) post(CoordinatorMessage(release));
}

void WorkerControl::on(const transport::MembershipEvent& event, Instant) {
  if (const auto* joined = std::get_if<transport::Joined>(&event)) {
    post(SetHashKey{joined->accepted.hash_key});
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
      send_step(*report);
      continue;
    }
    const RequestId request = request_of(message);
    send_to_owner(request, message);
    const auto* reply = std::get_if<SubmitReply>(&message);
    if (std::holds_alternative<Released>(message) || (reply && !reply->accepted)) {
      if (const auto owner = owners_.find(request); owner != owners_.end()) {
        coordinators_.at(owner->second).requests.erase(request);
        owners_.erase(owner);
      }
    }
  }
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
  log_info(report.connected ? "peer connected" : "peer not connected",
           {{"peer", report.peer.name},
            {"incarnation", report.peer.incarnation.value()},
            {"lane", report.lane},
            {"bytes_per_second", report.bytes_per_second},
            {"why", report.error}});
  send_all(report);
}

void WorkerControl::on(const Drain&, Instant) {
  if (draining_) return;
  draining_ = true;
  post(SetDraining{true});
  membership_->leave();
  send_all(Pong{.load = parts_.engine_status().load, .draining = true});
}

void WorkerControl::send_all(const WorkerMessage& message) {
  for (const auto& [stream, coordinator] : by_stream_) server_->send(stream, message);
}

void WorkerControl::send_to_owner(RequestId request, const WorkerMessage& message) {
  const auto owner = owners_.find(request);
  if (owner == owners_.end()) return;
  if (const Coordinator& c = coordinators_.at(owner->second); c.connected) server_->send(c.stream, message);
}

void WorkerControl::post(EngineCommand command) {
  BATON_CHECK(parts_.engine.post(std::move(command)) || parts_.engine.closed(),
              "the engine thread stands still");
}

void WorkerControl::release_all(Coordinator& coordinator) {
  for (const RequestId request : coordinator.requests) post(CoordinatorMessage(Release{request}));
}

// A coordinator that says nothing (not even a ping) has gone, whatever its socket pretends.
void WorkerControl::check_silence(Instant now) {
  for (auto& [id, coordinator] : coordinators_) {
    if (now - coordinator.heard < timers::kDead) continue;
    if (coordinator.connected) {
      server_->close(coordinator.stream, absl::DeadlineExceededError("nothing heard from the coordinator"));
      by_stream_.erase(coordinator.stream);
      coordinator.connected = false;
      log_warn("coordinator silent: its stream is closed", {{"coordinator", id}});
    }
    release_all(coordinator);
  }
  std::erase_if(coordinators_,
                [](const auto& c) { return !c.second.connected && c.second.requests.empty(); });
}

}  // namespace baton::worker
