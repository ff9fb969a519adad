#include "coordinator/membership/membership.h"

#include <algorithm>

#include "base/cat.h"
#include "transport/messages/life_over.h"

namespace baton::coordinator {

namespace {

absl::Status given_up(const std::string& name, Incarnation youngest) {
  return life_over(cat(name, ": this life was given up; join with a new incarnation"), youngest);
}

}  // namespace

const char* to_string(WorkerState state) {
  switch (state) {
    case WorkerState::kStarting:
      return "starting";
    case WorkerState::kReady:
      return "ready";
    case WorkerState::kSuspect:
      return "suspect";
    case WorkerState::kDraining:
      return "draining";
  }
  return "unknown";
}

Membership::Membership(MembershipOptions options) : options_(options), leases_(options.lease_ttl) {}

bool Membership::fenced(const WorkerRef& worker) const {
  const auto fence = fences_.find(worker.name);
  return fence != fences_.end() && worker.incarnation <= fence->second.incarnation;
}

WorkerView* Membership::live(const WorkerRef& worker) {
  const auto found = workers_.find(worker.name);
  return found != workers_.end() && found->second.description.ref == worker ? &found->second : nullptr;
}

const WorkerView* Membership::find(const WorkerRef& worker) const {
  return const_cast<Membership*>(this)->live(worker);
}

absl::StatusOr<uint64_t> Membership::join(const WorkerDescription& worker, Instant now) {
  const WorkerRef& ref = worker.ref;
  if (ref.name.empty() || worker.control_address.empty())
    return absl::InvalidArgumentError("a worker needs a name and a control address");
  if (fenced(ref)) return given_up(ref.name, fences_.at(ref.name).incarnation);
  if (const auto old = workers_.find(ref.name); old != workers_.end()) {
    if (old->second.description.ref.incarnation > ref.incarnation)
      return life_over(cat(ref.name, ": a younger life has joined"), old->second.description.ref.incarnation);
    if (old->second.description.ref == ref) {  // it missed our answer, or its lease
      return leases_.grant(ref, now);
    }
    lose(ref.name, "a new life of the worker joined");
  } else if (workers_.size() >= options_.max_names) {
    return absl::ResourceExhaustedError(cat("there are ", workers_.size(), " workers already"));
  }
  workers_[ref.name] = {.description = worker, .heard = now};
  decisions_.push_back(StartStream{ref, worker.control_address});
  return leases_.grant(ref, now);
}

absl::Status Membership::renew(const WorkerRef& worker, uint64_t lease, Instant now) {
  if (fenced(worker)) return given_up(worker.name, fences_.at(worker.name).incarnation);
  return leases_.renew(worker, lease, now);
}

absl::Status Membership::leave(const WorkerRef& worker, uint64_t lease, Instant now) {
  RETURN_IF_ERROR(renew(worker, lease, now));
  // It finishes what it has over the stream, whose end is then the end of this life.
  if (WorkerView* view = live(worker)) {
    if (view->state == WorkerState::kStarting) {
      lose(worker.name, "left");
    } else {
      set_state(*view, WorkerState::kDraining);
    }
  }
  return absl::OkStatus();
}

void Membership::stream_opened(const WorkerDescription& worker, Instant now) {
  WorkerView* view = live(worker.ref);
  if (view == nullptr || view->state != WorkerState::kStarting) return;
  view->description = worker;
  view->heard = now;
  view->state = WorkerState::kReady;
  decisions_.push_back(WorkerUp{worker});
}

void Membership::stream_closed(const WorkerRef& worker, bool was_open, const std::string& why, Instant) {
  WorkerView* view = live(worker);
  if (view != nullptr && was_open) lose(worker.name, cat("its stream closed: ", why));
}

bool Membership::heard(const WorkerRef& worker, const WorkerMessage& message, Instant now) {
  WorkerView* view = live(worker);
  if (view == nullptr || view->state == WorkerState::kStarting) return false;
  view->heard = now;
  if (const auto* report = std::get_if<StepReport>(&message)) {
    view->load = report->load;
    view->stands_still = false;
  }
  const auto* pong = std::get_if<Pong>(&message);
  if (pong != nullptr) note_step(*view, *pong);
  if (view->state == WorkerState::kSuspect && !view->stands_still) set_state(*view, WorkerState::kReady);
  if (pong != nullptr && pong->draining) set_state(*view, WorkerState::kDraining);
  if (pong != nullptr && pong->step_age >= std::max(options_.step_dead, 20 * pong->step_predicted)) {
    lose(worker.name, cat("its engine has been in one step for ",
                          std::chrono::duration_cast<std::chrono::seconds>(pong->step_age).count(), " s"));
    return false;
  }
  const auto* peer = std::get_if<PeerReport>(&message);
  if (peer != nullptr && peer->over && live(peer->peer) != nullptr)
    lose(peer->peer.name, cat(worker.name, " was told before that this life is over"));
  return live(worker) != nullptr;
}

// Clearly more than what a step may take: what takes a worker away must not be a guess.
void Membership::note_step(WorkerView& view, const Pong& pong) {
  view.load = pong.load;
  view.stands_still = pong.step_age >= std::max(options_.step_suspect, 5 * pong.step_predicted);
  if (view.stands_still && view.state == WorkerState::kReady) set_state(view, WorkerState::kSuspect);
}

void Membership::forgive_own_stall(Instant now) {
  const Instant due = next_deadline();
  if (due > now || now - due < options_.stall) return;
  for (auto& [name, view] : workers_) view.heard = std::min(now, view.heard + (now - due));
  leases_.extend(now - due);
}

void Membership::on_tick(Instant now) {
  forgive_own_stall(now);
  std::vector<std::pair<std::string, std::string>> lost;
  for (auto& [name, view] : workers_) {
    if (view.state == WorkerState::kStarting) {
      if (leases_.expired(name, now)) lost.emplace_back(name, "its lease ended before its stream opened");
    } else if (now - view.heard >= options_.dead) {
      lost.emplace_back(
          name, cat("nothing heard for ",
                    std::chrono::duration_cast<std::chrono::milliseconds>(now - view.heard).count(), " ms"));
    } else if (now - view.heard >= options_.suspect && view.state == WorkerState::kReady) {
      set_state(view, WorkerState::kSuspect);
    }
  }
  for (const auto& [name, why] : lost) lose(name, why);
}

Instant Membership::next_deadline() const {
  Instant next = kNever;
  for (const auto& [name, view] : workers_) {
    if (view.state == WorkerState::kStarting) {
      next = std::min(next, leases_.expiry(name));
    } else {
      next =
          std::min(next, view.heard + (view.state == WorkerState::kReady ? options_.suspect : options_.dead));
    }
  }
  return next;
}

void Membership::take_decisions(std::vector<MembershipDecision>& out) {
  std::ranges::move(decisions_, std::back_inserter(out));
  decisions_.clear();
}

void Membership::set_state(WorkerView& view, WorkerState state) {
  if (view.state == state) return;
  view.state = state;
  decisions_.push_back(WorkerTakesRequests{view.description.ref, state == WorkerState::kReady,
                                           state == WorkerState::kSuspect});
}

void Membership::lose(const std::string& name, const std::string& why) {
  const auto found = workers_.find(name);
  const WorkerRef ref = found->second.description.ref;
  const bool was_up = found->second.state != WorkerState::kStarting;
  workers_.erase(found);
  leases_.revoke(name);
  fence(ref);
  decisions_.push_back(StopStream{ref});
  if (was_up) decisions_.push_back(WorkerLost{ref, why});
}

// Names come from outside: the oldest fence of a name without a live worker makes room.
void Membership::fence(const WorkerRef& worker) {
  fences_[worker.name] = {worker.incarnation, ++fenced_lives_};
  if (fences_.size() <= options_.max_names) return;
  auto oldest = fences_.end();
  for (auto it = fences_.begin(); it != fences_.end(); ++it) {
    if (workers_.contains(it->first)) continue;
    if (oldest == fences_.end() || it->second.order < oldest->second.order) oldest = it;
  }
  if (oldest != fences_.end()) fences_.erase(oldest);
}

}  // namespace baton::coordinator
