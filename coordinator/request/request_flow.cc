// The request's way through the coordinator: queue, dispatch, deadlines, ends. What workers say is handled in
// request_flow_messages.cc.
#include "coordinator/request/request_flow.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace baton::coordinator {
namespace {

bool pairs_with(const WorkerDescription& a, const WorkerDescription& b) {
  const bool roles = (a.role != WorkerRole::kDecode && b.role != WorkerRole::kPrefill) ||
                     (b.role != WorkerRole::kDecode && a.role != WorkerRole::kPrefill);
  return roles && a.model_hash == b.model_hash && a.kv_layout_hash == b.kv_layout_hash &&
         a.numerics_id == b.numerics_id && a.block_tokens == b.block_tokens;
}

// Workers end a request by its deadline themselves, should we be gone. While we are not, ours comes first.
constexpr Duration kWorkerDeadlineSlack = std::chrono::seconds(1);

// Something that only this request waits for: others may overtake it.
bool own_obstacle(const ActiveRequest& a) {
  return absl::IsAborted(a.obstacle) || absl::IsFailedPrecondition(a.obstacle) || a.waits_alone ||
         !a.whole_because.empty();
}

}  // namespace

RequestFlow::RequestFlow(const FlowOptions& options, Router& router, WorkerChannel& channel,
                         RequestObserver* observer)
    : options_(options),
      router_(router),
      channel_(channel),
      observer_(observer),
      links_(options.peer_connect, options.peer_again),
      next_transfer_(options.first_transfer) {}

// ---- clients ------------------------------------------------------------------------------------

void RequestFlow::on_submit(GenerateRequest request, std::shared_ptr<RequestSink> sink, Instant now,
                            QueueWait wait) {
  ++counters_.submitted;
  const RequestId id = request.id;
  absl::Status refusal;
  if (request.prompt.empty() || request.stop.max_tokens < 1 || request.time_left <= Duration::zero() ||
      active_.contains(id) || ledger_.holds(id)) {
    refusal = absl::InvalidArgumentError("empty prompt, no tokens or time asked for, or a request id in use");
  } else if (wait == QueueWait::kBounded && queue_.size() >= options_.max_queued) {
    ++counters_.rejected;
    refusal = absl::ResourceExhaustedError("the admission queue is full");
  }
  if (!refusal.ok()) {
    ++counters_.failed;
    const Duration retry_after = absl::IsResourceExhausted(refusal) ? options_.retry_after : Duration::zero();
    sink->on_event(id, Failed{.status = refusal, .retry_after = retry_after});
    if (observer_ != nullptr) {
      RequestRecord record{.id = id, .trace_id = request.trace_id, .status = refusal};
      record.submitted = record.ended = now;
      observer_->on_end(record);
    }
    return;
  }
  ActiveRequest& a = active_[id];
  a.total_deadline = now + std::min<Duration>(request.time_left, options_.request_total);
  a.queue_deadline = now + options_.admission_queue;
  a.wait = wait;
  a.request = std::move(request);
  a.sink = std::move(sink);
  a.order = next_order_++;
  a.record.id = id;
  a.record.trace_id = a.request.trace_id;
  a.record.submitted = now;
  queue_.emplace(a.order, id);
  rearm(a);
  pump(now);
}

void RequestFlow::on_cancel(RequestId request, Instant now) {
  ActiveRequest* const a = active(request);
  if (a == nullptr) return;  // it ended while the word was on its way
  ++counters_.cancelled;
  step(*a, RequestStep::kCancelled);
  a->record.finish = FinishReason::kCancelled;
  end(*a, now);
  pump(now);
}

// ---- workers ------------------------------------------------------------------------------------

void RequestFlow::on_worker_up(const WorkerDescription& worker, Instant now) {
  if (const auto known = workers_.find(worker.ref.name); known != workers_.end()) {
    if (known->second.description.ref.incarnation >= worker.ref.incarnation) {
      ++counters_.fenced_messages;
      return;
    }
    on_worker_lost(WorkerRef(known->second.description.ref), now);
  }
  workers_[worker.ref.name] = Worker{.description = worker, .load = {}, .takes_requests = true};
  router_.prefixes().add(worker.ref, worker.blocks_total);
  for (const auto& [name, other] : workers_) {
    if (name == worker.ref.name || !pairs_with(worker, other.description)) continue;
    links_.expect(worker.ref, other.description.ref, now);
    ask_to_connect(worker.ref, other.description.ref);
  }
  pump(now);
}

void RequestFlow::ask_to_connect(const WorkerRef& one, const WorkerRef& two) {
  const Worker* const a = live(one);
  const Worker* const b = live(two);
  if (a == nullptr || b == nullptr) return;
  channel_.send(one, ConnectPeer{b->description});
  channel_.send(two, ConnectPeer{a->description});
}

void RequestFlow::on_worker_takes_requests(const WorkerRef& worker, bool takes, bool silent, Instant now) {
  Worker* const w = live(worker);
  if (w == nullptr || (w->takes_requests == takes && w->silent == silent)) return;
  w->takes_requests = takes;
  w->silent = silent;
  if (!silent) pump(now);  // also when it drains: nobody waits for it any more
}

void RequestFlow::on_worker_lost(const WorkerRef& worker, Instant now) {
  if (live(worker) == nullptr) return;
  // The caller's may live in what is erased here.
  const WorkerRef lost = worker;  // NOLINT(performance-unnecessary-copy-initialization)
  ++counters_.workers_lost;
  workers_.erase(lost.name);
  links_.forget(lost);
  router_.forget(lost);
  const auto closed = ledger_.close_all(lost);
  // First the fences: what is dispatched below must find the survivors knowing.
  for (const auto& [name, other] : workers_) channel_.send(other.description.ref, FencePeer{lost});
  for (const auto& [request, leg] : closed) {
    if (leg.state == LegState::kReleasing) continue;  // nobody waits for that leg any more
    if (ActiveRequest* const a = active(request))
      worker_left(*a, leg.leg, absl::StrCat("worker ", lost.name, " was lost"), now);
  }
  pump(now);
}

void RequestFlow::worker_left(ActiveRequest& a, Leg leg, const std::string& why, Instant now) {
  if (leg == Leg::kPrefill && a.state == RequestState::kDecoding) return;
  if (leg == Leg::kPrefill && a.state == RequestState::kLanding) {
    // All its KV may have landed: the decode side knows, and with its source fenced it will say so.
    if (a.attempt.landed) return;
    a.attempt.landing_deadline = now + options_.landing_grace;
    rearm(a);
    return;
  }
  if (!a.sent.empty()) {
    a.moves = true;
    a.whole_because.clear();
    if (now - a.record.dispatched >= options_.forgiven) a.tries = 0;
  }
  attempt_lost(a, why, now);
}

// ---- queue and dispatch -------------------------------------------------------------------------

std::vector<RoutableWorker> RequestFlow::routable(bool silent_too) const {
  std::vector<RoutableWorker> workers;
  for (const auto& [name, worker] : workers_)
    if (!worker.ends && (worker.takes_requests || (worker.silent && silent_too)))
      workers.push_back({&worker.description, worker.load, worker.silent});
  return workers;
}

void RequestFlow::pump(Instant now) {
  if (queue_.empty()) return;
  const std::vector<RoutableWorker> workers = routable(true);
  for (auto it = queue_.begin(); it != queue_.end();) {
    ActiveRequest& a = *active(it->second);
    ++it;  // dispatching or failing takes the entry out
    if (a.not_before > now) continue;
    a.obstacle = try_dispatch(a, workers, now);
    if (absl::IsInvalidArgument(a.obstacle)) {
      fail(a, a.obstacle, now);
    } else if (!a.obstacle.ok() && !own_obstacle(a)) {
      // No room or no worker, for anybody: those behind must not overtake.
      obstacle_ = a.obstacle;
      return;
    }
  }
}

void RequestFlow::hash_prompt(ActiveRequest& a) const {
  for (const auto& [name, worker] : workers_) {
    const int32_t block_tokens = worker.description.block_tokens;
    const auto same = [&](const PromptChain& c) { return c.block_tokens == block_tokens; };
    if (block_tokens < 1 || std::ranges::any_of(a.chains, same)) continue;
    const std::vector<TokenId> more = a.answered() > 0 ? a.given() : std::vector<TokenId>{};
    a.chains.push_back({block_tokens, chain_hashes(options_.hash_key, a.request.tenant_salt,
                                                   more.empty() ? a.request.prompt : more, block_tokens)});
  }
}

absl::Status RequestFlow::try_dispatch(ActiveRequest& a, const std::vector<RoutableWorker>& all,
                                       Instant now) {
  // An answer goes on as it began.
  const auto equal_to = [&](const RoutableWorker& w) {
    return w.description->model_hash == a.model_hash && w.description->numerics_id == a.numerics_id;
  };
  std::vector<RoutableWorker> equal;
  if (!a.sent.empty()) std::ranges::copy_if(all, std::back_inserter(equal), equal_to);
  const std::vector<RoutableWorker>& workers = a.sent.empty() ? all : equal;
  a.waits_alone = workers.size() < all.size();
  if (workers.empty() && a.waits_alone)
    return absl::FailedPreconditionError(absl::StrCat(
        "the answer cannot go on: no worker is left with its model and numerics, ", a.numerics_id));
  hash_prompt(a);
  const std::vector<WorkerRef> busy = ledger_.holders(a.id());
  const RouteRequest facts{.prompt_tokens = a.prompt_tokens() + a.answered(),
                           .max_tokens = a.request.stop.max_tokens - a.answered(),
                           .chains = a.chains,
                           .busy = busy,
                           .avoid = a.avoid,
                           .whole_because = a.whole_because};
  auto route = router_.route(facts, workers, links_);
  // What began fits the worker that was lost, which comes back.
  if (absl::IsInvalidArgument(route.status()) && !a.sent.empty())
    return absl::FailedPreconditionError(
        absl::StrCat("the answer cannot go on: ", route.status().message(), " that is left"));
  if (!route.ok()) return route.status();
  router_.assign(a.id(), facts, *route);
  dispatch(a, *route, now);
  return absl::OkStatus();
}

void RequestFlow::dispatch(ActiveRequest& a, const Route& route, Instant now) {
  queue_.erase({a.order, a.id()});
  step(a, RequestStep::kRouted);
  a.attempt = Attempt{.prefill = route.prefill, .decode = route.decode};
  a.attempt.ack_deadline = now + (a.request.grammar.empty() ? options_.dispatch_ack : options_.grammar_ack);
  a.attempt.answered = a.attempt.produced = a.answered();
  if (a.sent.empty()) {
    a.model_hash = live(route.decode)->description.model_hash;
    a.numerics_id = live(route.decode)->description.numerics_id;
  }
  if (std::exchange(a.moves, false)) {
    ++a.record.verdict.moves;
    ++counters_.moves;
  }
  a.record.dispatched = now;
  a.record.predicted = route.terms();
  a.record.verdict.path = route.path;
  a.record.verdict.prefill_worker = route.prefill.name;
  a.record.verdict.decode_worker = route.decode.name;
  if (observer_ != nullptr) observer_->on_route(a.id(), route);
  if (route.whole()) {
    a.attempt.unanswered = 1;
    submit_leg(a, route.decode, Leg::kWhole, now);
  } else {
    a.attempt.transfer = TransferId(next_transfer_++);
    a.attempt.unanswered = 2;
    submit_leg(a, route.prefill, Leg::kPrefill, now);  // the first token waits for it; room is wanted later
    submit_leg(a, route.decode, Leg::kDecode, now);
  }
  rearm(a);
}

void RequestFlow::submit_leg(const ActiveRequest& a, const WorkerRef& worker, Leg leg, Instant now) {
  ledger_.open(a.id(), worker, leg, a.attempt.transfer);
  Submit submit{.request = a.request, .leg = leg, .transfer = a.attempt.transfer};
  submit.request.time_left = a.total_deadline - now + kWorkerDeadlineSlack;
  if (a.attempt.answered > 0) {
    submit.request.prompt = a.given();
    submit.request.answered = a.attempt.answered;
  }
  if (!a.sent.empty()) submit.request.sampling.prompt_logprobs = -1;  // the client has them
  if (leg != Leg::kWhole) submit.peer = leg == Leg::kPrefill ? a.attempt.decode : a.attempt.prefill;
  channel_.send(worker, std::move(submit));
}

absl::Status RequestFlow::can_generate() const {
  const RouteRequest smallest{.prompt_tokens = 1, .max_tokens = 1};
  const auto route = router_.route(smallest, routable(false), links_);
  return absl::IsResourceExhausted(route.status()) ? absl::OkStatus() : route.status();
}

bool RequestFlow::connecting() const {
  return links_.any_pending() || std::ranges::any_of(workers_, [](const auto& w) { return w.second.silent; });
}

// ---- deadlines ----------------------------------------------------------------------------------

void RequestFlow::rearm(ActiveRequest& a) {
  timers_.erase({a.timer, a.id()});
  a.timer = a.total_deadline;
  if (a.state == RequestState::kQueued) {
    a.timer = std::min(a.timer, a.queue_deadline);
    if (a.not_before > Instant{}) a.timer = std::min(a.timer, a.not_before);
  }
  if (a.state == RequestState::kDispatching) a.timer = std::min(a.timer, a.attempt.ack_deadline);
  if (a.state == RequestState::kLanding) a.timer = std::min(a.timer, a.attempt.landing_deadline);
  timers_.emplace(a.timer, a.id());
}

void RequestFlow::on_tick(Instant now) {
  for (const auto& [one, two] : links_.on_tick(now)) ask_to_connect(one, two);
  while (!releases_.empty() && releases_.front().due <= now) {
    PendingRelease pending = std::move(releases_.front());
    releases_.pop_front();
    const LedgerLeg* const leg = ledger_.find(pending.request, pending.worker);
    if (leg == nullptr || leg->number != pending.leg) continue;  // gone; a later one has its own entry
    ++counters_.release_overdue;
    channel_.send(pending.worker, Release{pending.request});
    pending.due = now + options_.release_again;
    releases_.push_back(std::move(pending));
  }
  while (!timers_.empty() && timers_.begin()->first <= now) expired(*active(timers_.begin()->second), now);
  pump(now);
}

void RequestFlow::expired(ActiveRequest& a, Instant now) {
  if (now >= a.total_deadline) {
    fail(a, absl::DeadlineExceededError(absl::StrCat("out of time while ", to_string(a.state))), now);
  } else if (a.state == RequestState::kQueued && now >= a.queue_deadline) {
    const absl::Status& why = a.obstacle.ok() ? obstacle_ : a.obstacle;
    const bool patient = a.wait == QueueWait::kAllItsTime || !a.sent.empty();
    if (patient && !absl::IsUnavailable(why) && !absl::IsFailedPrecondition(why)) {
      a.queue_deadline = now + options_.admission_queue;
      queue_.erase({a.order, a.id()});
      if (a.sent.empty()) a.order = next_order_++;  // those behind it have waited for it long enough
      queue_.emplace(a.order, a.id());
      return rearm(a);
    }
    fail(a,
         absl::IsUnavailable(why) ? why
         : absl::IsFailedPrecondition(why)
             ? absl::UnavailableError(why.message())
             : absl::ResourceExhaustedError(absl::StrCat("waited too long for room: ", why.message())),
         now);
  } else if (a.state == RequestState::kDispatching && now >= a.attempt.ack_deadline) {
    answer_is_late(a, now);
  } else if (a.state == RequestState::kLanding && now >= a.attempt.landing_deadline) {
    hand_over_failed(a, "transfer-failed", "the prefill worker was lost", now);
  } else {
    a.not_before = Instant{};  // a pause is over
    rearm(a);
  }
}

void RequestFlow::answer_is_late(ActiveRequest& a, Instant now) {
  ++counters_.ack_timeouts;
  std::string names;
  for (const WorkerRef& worker : ledger_.holders(a.id())) {
    if (ledger_.find(a.id(), worker)->state != LegState::kSubmitted) continue;
    a.avoid.push_back(worker);
    absl::StrAppend(&names, " ", worker.name);
  }
  attempt_lost(a, absl::StrCat("no answer from", names), now);
}

Instant RequestFlow::next_deadline() const {
  Instant next = links_.next_deadline();
  if (!timers_.empty()) next = std::min(next, timers_.begin()->first);
  if (!releases_.empty()) next = std::min(next, releases_.front().due);
  return next;
}

// ---- ends ---------------------------------------------------------------------------------------

void RequestFlow::attempt_lost(ActiveRequest& a, const std::string& why, Instant now) {
  if (a.tries >= options_.max_retries) {
    fail(a, absl::UnavailableError(absl::StrCat(why, "; tried ", a.tries + 1, " times")), now);
    return;
  }
  ++a.tries;
  ++a.record.retries;
  ++counters_.retries;
  a.queue_deadline = std::max(a.queue_deadline, now + options_.admission_queue);
  requeue(a, now);
}

void RequestFlow::requeue(ActiveRequest& a, Instant now) {
  leave_workers(a.id(), now);
  if (a.answered() != a.attempt.answered) a.chains.clear();  // there is more to hash
  a.attempt = {};
  step(a, RequestStep::kReturned);
  queue_.emplace(a.order, a.id());
  rearm(a);
}

void RequestFlow::fail(ActiveRequest& a, absl::Status status, Instant now) {
  ++counters_.failed;
  step(a, RequestStep::kGaveUp);
  const bool again = absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
  a.sink->on_event(a.id(), Failed{.status = status,
                                  .retry_after = again ? options_.retry_after : Duration::zero(),
                                  .verdict = a.record.verdict});
  a.record.status = std::move(status);
  a.record.finish = FinishReason::kError;
  end(a, now);
}

void RequestFlow::fail_all(const std::string& why, Instant now) {
  while (!active_.empty()) fail(active_.begin()->second, absl::UnavailableError(why), now);
}

void RequestFlow::complete(ActiveRequest& a, Instant now) {
  ++counters_.finished;
  step(a, RequestStep::kCompleted);
  a.record.finish = a.attempt.finish;
  a.record.usage = {.prompt_tokens = a.prompt_tokens(),
                    .completion_tokens = static_cast<int32_t>(a.sent.size()),
                    .cached_tokens = a.record.verdict.cached_tokens};
  a.sink->on_event(a.id(), Finished{.reason = a.record.finish,
                                    .usage = a.record.usage,
                                    .times = a.record.times,
                                    .verdict = a.record.verdict});
  end(a, now);
}

void RequestFlow::end(ActiveRequest& a, Instant now) {
  leave_workers(a.id(), now);
  a.record.ended = now;
  a.record.usage = {.prompt_tokens = a.prompt_tokens(),
                    .completion_tokens = static_cast<int32_t>(a.sent.size()),
                    .cached_tokens = a.record.verdict.cached_tokens};
  if (observer_ != nullptr) observer_->on_end(a.record);
  queue_.erase({a.order, a.id()});
  timers_.erase({a.timer, a.id()});
  active_.erase(RequestId(a.id()));
}

void RequestFlow::leave_workers(RequestId request, Instant now) {
  for (const WorkerRef& worker : ledger_.holders(request)) {
    if (!ledger_.releasing(request, worker)) continue;
    channel_.send(worker, Release{request});
    releases_.push_back(
        {now + options_.release_again, request, worker, ledger_.find(request, worker)->number});
  }
}

void RequestFlow::close_leg(RequestId request, const WorkerRef& worker) {
  BATON_CHECK(ledger_.close(request, worker));
  router_.assignments().drop(request, worker);
}

void RequestFlow::step(ActiveRequest& a, RequestStep step) {
  const auto next = next_state(a.state, step);
  BATON_CHECK(next.has_value(), to_string(step));
  a.state = *next;
}

ActiveRequest* RequestFlow::active(RequestId request) {
  const auto it = active_.find(request);
  return it == active_.end() ? nullptr : &it->second;
}

RequestFlow::Worker* RequestFlow::live(const WorkerRef& worker) {
  const auto it = workers_.find(worker.name);
  return it == workers_.end() || it->second.description.ref != worker ? nullptr : &it->second;
}

void RequestFlow::check_invariants() const {
  const absl::Status ledger = ledger_.check();
  BATON_CHECK(ledger.ok(), ledger.ToString().c_str());
  BATON_CHECK(timers_.size() == active_.size());
  for (const auto& [id, a] : active_) {
    BATON_CHECK(timers_.contains({a.timer, id}));
    BATON_CHECK(queue_.contains({a.order, id}) == (a.state == RequestState::kQueued));
  }
  for (const auto& [id, entry] : ledger_.entries()) {
    for (const auto& [worker, leg] : entry) {
      const auto known = workers_.find(worker.name);
      BATON_CHECK(known != workers_.end() && known->second.description.ref == worker);
      // A leg that nobody released works for a request that is under way.
      const auto a = active_.find(id);
      const bool wanted = a != active_.end() && a->second.state != RequestState::kQueued;
      BATON_CHECK(wanted || leg.state == LegState::kReleasing);
    }
  }
}

}  // namespace baton::coordinator
