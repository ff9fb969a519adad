// What workers say to the request flow, and what goes to the client in consequence.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/request/request_flow.h"

namespace baton::coordinator {

void RequestFlow::on_worker_message(const WorkerRef& worker, const WorkerMessage& message, Instant now) {
  if (live(worker) == nullptr) {
    ++counters_.fenced_messages;  // a former life, or one that never joined (design I3)
    return;
  }
  std::visit([&](const auto& m) { on(worker, m, now); }, message);
}

// Membership's business.
void RequestFlow::on(const WorkerRef&, const WorkerHello&, Instant) {}

void RequestFlow::on_load(Worker& worker, const LoadSnapshot& load) {
  worker.load = load;
  router_.assignments().snapshot(worker.description.ref);
}

void RequestFlow::on(const WorkerRef& worker, const Pong& pong, Instant now) {
  on_load(*live(worker), pong.load);
  pump(now);
}

void RequestFlow::on(const WorkerRef& worker, const PeerReport& report, Instant now) {
  if (!links_.report(worker, report, now)) {
    ++counters_.late_messages;
    return;
  }
  if (observer_ != nullptr) observer_->on_link(worker, report);
  pump(now);
}

// ---- answers to Submit --------------------------------------------------------------------------

void RequestFlow::on(const WorkerRef& worker, const SubmitReply& reply, Instant now) {
  const LedgerLeg* const leg = ledger_.find(reply.request, worker);
  if (leg == nullptr) {
    ++counters_.late_messages;
    return;
  }
  const bool answered = leg->state == LegState::kAccepted;
  if (leg->leg != reply.leg || answered) {
    ++(answered && reply.accepted ? counters_.duplicate_messages : counters_.protocol_errors);
    return;
  }
  const bool released = leg->state == LegState::kReleasing;
  if (!reply.accepted) {
    close_leg(reply.request, worker);  // it holds nothing, and will say no more
    if (!released) on_refused(*active(reply.request), worker, reply, now);
    pump(now);
    return;
  }
  router_.assignments().acknowledged(reply.request, worker);
  if (released) return;
  ledger_.accept(reply.request, worker);
  ActiveRequest& a = *active(reply.request);
  if (reply.leg == Leg::kDecode) a.attempt.decode_cached_tokens = reply.cached_tokens;
  if (--a.attempt.unanswered > 0) return;
  step(a, RequestStep::kAdmitted);
  a.record.admitted = now;
  rearm(a);
  flush(a, now);
}

void RequestFlow::on_refused(ActiveRequest& a, const WorkerRef& worker, const SubmitReply& reply,
                             Instant now) {
  ++counters_.refusals;
  if (reply.reason == RefuseReason::kTooLong || reply.reason == RefuseReason::kInvalid) {
    fail(a, absl::InvalidArgumentError(absl::StrCat("worker ", worker.name, " refused it: ", reply.detail)),
         now);
    return;
  }
  if (reply.reason == RefuseReason::kDraining) a.avoid.push_back(worker);
  if (reply.reason == RefuseReason::kUnknownPeer && !a.attempt.whole()) {
    links_.mark_down(a.attempt.prefill, a.attempt.decode, now);
    ask_to_connect(a.attempt.prefill, a.attempt.decode);
  }
  // It looked as if there were room: look again when the worker may have more, ever more patiently. The
  // admission deadline stays where it was.
  a.not_before = now + options_.refusal_pause * (1 << std::min(a.record.refusals, 5));
  ++a.record.refusals;
  a.obstacle =
      absl::ResourceExhaustedError(absl::StrCat("worker ", worker.name, " refused it: ", reply.detail));
  requeue(a, now);
}

// ---- tokens -------------------------------------------------------------------------------------

void RequestFlow::on(const WorkerRef& worker, const StepReport& report, Instant now) {
  on_load(*live(worker), report.load);
  router_.prefixes().evicted(worker,
                             report.blocks_evicted);  // first: a block may be evicted and stored again
  router_.prefixes().stored(worker, report.blocks_stored);
  for (const SequenceTokens& sequence : report.sequences) on_sequence(worker, sequence, now);
  pump(now);
}

void RequestFlow::on_sequence(const WorkerRef& worker, const SequenceTokens& tokens, Instant now) {
  if (tokens.finish == FinishReason::kWorkerEnds) live(worker)->ends = true;
  const LedgerLeg* const leg = ledger_.find(tokens.request, worker);
  if (leg == nullptr || leg->state == LegState::kReleasing) {
    ++counters_.late_messages;  // on its way when the request ended here
    return;
  }
  if (leg->leg != tokens.leg) {
    ++counters_.protocol_errors;
    return;
  }
  ActiveRequest& a = *active(tokens.request);
  if (tokens.finish == FinishReason::kWorkerEnds) {
    worker_left(a, tokens.leg, absl::StrCat("worker ", worker.name, " cannot go on: ", tokens.error), now);
  } else if (tokens.finish == FinishReason::kError || tokens.finish == FinishReason::kCancelled) {
    leg_failed(a, tokens.leg, tokens.error, now);
  } else if (!take_tokens(a, tokens)) {
    ++counters_.protocol_errors;
    fail(a, absl::InternalError(absl::StrCat("worker ", worker.name, " sent tokens that cannot be")), now);
  } else {
    flush(a, now);
  }
}

// False when the leg has no business to send them.
bool RequestFlow::take_tokens(ActiveRequest& a, const SequenceTokens& tokens) {
  Attempt& attempt = a.attempt;
  // The decode leg's end may overtake the first token, which then still comes.
  if (attempt.finish != FinishReason::kNone && tokens.leg != Leg::kPrefill && !tokens.tokens.empty())
    return false;
  auto next = tokens.tokens.begin();
  if (tokens.leg != Leg::kDecode) {
    attempt.prompt_outputs.insert(attempt.prompt_outputs.end(), tokens.prompt_tokens.begin(),
                                  tokens.prompt_tokens.end());
    if (next != tokens.tokens.end() && !attempt.first.has_value()) {
      attempt.first = *next++;
      attempt.cached_tokens = std::clamp(tokens.cached_tokens, 0, a.prompt_tokens());
      attempt.worker_queue = tokens.queued;
      attempt.worker_prefill = tokens.prefill;
    }
    if (tokens.leg == Leg::kPrefill && next != tokens.tokens.end()) return false;
  } else if (next != tokens.tokens.end()) {
    attempt.decode_spoke = true;
  }
  attempt.rest.insert(attempt.rest.end(), next, tokens.tokens.end());
  if (tokens.finish != FinishReason::kNone) attempt.finish = tokens.finish;
  return true;
}

// Passes on what may be passed on: nothing before all legs are admitted, and nothing before the first token.
void RequestFlow::flush(ActiveRequest& a, Instant now) {
  Attempt& attempt = a.attempt;
  if (a.state == RequestState::kPrefilling && attempt.first.has_value()) {
    step(a, attempt.whole() ? RequestStep::kFirstWhole : RequestStep::kFirstToken);
    rearm(a);
    start_stream(a, now);
    if (!emit(a, {*attempt.first}, now)) return;
  }
  if (a.state != RequestState::kLanding && a.state != RequestState::kDecoding) return;
  if (!attempt.rest.empty()) {
    if (a.state == RequestState::kLanding) {
      step(a, RequestStep::kNextToken);
      rearm(a);
    }
    std::vector<TokenOutput> rest;
    rest.swap(attempt.rest);
    if (!emit(a, rest, now)) return;
  }
  if (attempt.finish != FinishReason::kNone) complete(a, now);
}

void RequestFlow::start_stream(ActiveRequest& a, Instant now) {
  if (a.started) return;
  a.record.verdict.cached_tokens = a.attempt.cached_tokens;
  a.started = true;
  a.record.first_token = now;
  // The parts sum to the whole as seen here: what the worker does not account for is reserve (and the way).
  StageTimes& times = a.record.times;
  times.queue = a.record.dispatched - a.record.submitted;
  const Duration rest = now - a.record.dispatched;
  times.prefill = std::clamp(a.attempt.worker_prefill, Duration::zero(), rest);
  times.worker_queue = std::clamp(a.attempt.worker_queue, Duration::zero(), rest - times.prefill);
  times.reserve = rest - times.prefill - times.worker_queue;
  a.sink->on_event(a.id(), Started{.verdict = a.record.verdict});
}

// False when the request ended here because the tokens cannot be right.
bool RequestFlow::emit(ActiveRequest& a, const std::vector<TokenOutput>& tokens, Instant now) {
  Tokens event;
  const bool first = a.sent.empty();
  if (first) event.prompt_tokens = std::move(a.attempt.prompt_outputs);
  for (const TokenOutput& token : tokens) {
    const auto index = static_cast<size_t>(a.attempt.produced++);
    if (index >= static_cast<size_t>(a.request.stop.max_tokens)) {
      ++counters_.protocol_errors;
      fail(a, absl::InternalError("a worker sent more tokens than were asked for"), now);
      return false;
    }
    if (index >= a.sent.size()) {
      a.sent.push_back(token.token);
      event.tokens.push_back(token);
    } else if (a.sent[index] == token.token) {
      ++counters_.replayed_tokens;
    } else {
      ++counters_.replay_mismatches;
      fail(a, absl::InternalError("the answer came out differently when computed again"), now);
      return false;
    }
  }
  if (event.tokens.empty()) return true;
  const bool has_second = a.record.second_token == kNever && a.sent.size() > 1;
  if (has_second) a.record.second_token = now;
  if (observer_ != nullptr) {
    const Instant before = first ? a.record.submitted : a.last_token;
    observer_->on_tokens(a.id(), static_cast<int32_t>(event.tokens.size()), first, now - before);
  }
  a.last_token = now;
  a.sink->on_event(a.id(), std::move(event));
  return true;
}

// ---- transfers, releases and errors -------------------------------------------------------------

void RequestFlow::on(const WorkerRef& worker, const TransferReport& report, Instant now) {
  if (observer_ != nullptr) observer_->on_transfer(worker, report);
  const LedgerLeg* const leg = ledger_.find(report.request, worker);
  if (leg == nullptr || leg->transfer != report.transfer || leg->leg != Leg::kDecode) {
    ++counters_.late_messages;
    return;
  }
  ledger_.transfer(report.request, worker, report.ok ? TransferState::kLanded : TransferState::kFailed);
  if (leg->state == LegState::kReleasing) return;
  ActiveRequest& a = *active(report.request);
  a.record.transfer_bytes = report.bytes;
  a.record.lane = report.lane;
  if (!report.ok) {
    hand_over_failed(a, "transfer-failed", report.error, now);
    pump(now);
    return;
  }
  ledger_.transfer(report.request, a.attempt.prefill, TransferState::kLanded);
  a.attempt.landed = true;
  a.attempt.landing_deadline = kNever;
  rearm(a);
  a.record.times.transfer = report.duration;
  a.record.times.transfer_exposed = report.exposed;
  router_.observe_transfer(live(worker)->description.kv_layout_hash, report.bytes,
                           a.prompt_tokens() + a.attempt.answered - a.attempt.decode_cached_tokens);
}

void RequestFlow::on(const WorkerRef& worker, const Released& released, Instant now) {
  const LedgerLeg* const leg = ledger_.find(released.request, worker);
  if (leg == nullptr) {
    ++counters_.duplicate_messages;
    return;
  }
  if (leg->leg != released.leg) {
    ++counters_.protocol_errors;
    return;
  }
  const bool expected = leg->state == LegState::kReleasing;
  close_leg(released.request, worker);
  if (!expected) {
    ActiveRequest& a = *active(released.request);
    // A prefill leg is done with its token given and its KV drained; the others with their last token, which
    // may still wait here for the first one. Nobody else leaves unasked.
    const bool done =
        released.leg == Leg::kPrefill ? a.attempt.first.has_value() : a.attempt.finish != FinishReason::kNone;
    if (!done) {
      ++counters_.protocol_errors;
      leg_failed(a, released.leg, absl::StrCat("worker ", worker.name, " let go of it"), now);
    }
  }
  pump(now);
}

void RequestFlow::leg_failed(ActiveRequest& a, Leg leg, const std::string& error, Instant now) {
  const bool handed_over = a.attempt.landed || a.attempt.decode_spoke;
  if (leg == Leg::kPrefill) {
    if (!handed_over || !a.attempt.first.has_value()) hand_over_failed(a, "prefill-failed", error, now);
  } else if (leg == Leg::kDecode && !handed_over) {
    hand_over_failed(a, "transfer-failed", error, now);
  } else {
    fail(a, absl::InternalError(error), now);
  }
}

void RequestFlow::hand_over_failed(ActiveRequest& a, const std::string& reason, const std::string& error,
                                   Instant now) {
  if (options_.on_prefill_failure == PrefillFailure::kError && a.attempt.answered == 0) {
    fail(a, absl::UnavailableError(absl::StrCat(reason, ": ", error)), now);
    return;
  }
  a.whole_because = reason;
  attempt_lost(a, absl::StrCat(reason, ": ", error), now);
}

}  // namespace baton::coordinator
