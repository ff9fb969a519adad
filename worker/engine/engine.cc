#include "worker/engine/engine.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
Engine::Engine(const EngineOptions& options, KvExchange& exchange)
    : prompt_values_(options.prompt_values),
      exchange_(exchange),
      cache_(options.blocks, options.block_tokens, options.host),
      scheduler_(options.scheduler, cache_),
      plans_(static_cast<size_t>(std::max(options.scheduler.plans_in_flight, 1))) {}

Engine::~Engine() = default;

void Engine::set_hash_key(const HashKey& key) {
  key_set_ = true;
  scheduler_.set_hash_key(key);
}

// ---- from the coordinator ------------------------------------------------------------------------

void Engine::on_message(const CoordinatorMessage& message, Instant now) {
  if (const auto* hello = std::get_if<CoordinatorHello>(&message)) set_hash_key(hello->hash_key);
  if (const auto* submit = std::get_if<Submit>(&message)) on_submit(*submit, now);
  if (const auto* release = std::get_if<Release>(&message)) on_release(*release);
}

RefuseReason Engine::refusal(const Submit& submit, std::string& detail) const {
  if (draining_) return RefuseReason::kDraining;
  if (!key_set_) {
    detail = "no hash key yet";
    return RefuseReason::kInvalid;
  }
  if (by_request_.contains(submit.request.id)) {
    detail = "the request is here already";
    return RefuseReason::kInvalid;
  }
  if (submit.leg != Leg::kWhole && transfer_ids_.contains(submit.transfer)) {
    detail = "the transfer is open already";
    return RefuseReason::kInvalid;
  }
  const RefuseReason reason = scheduler_.check(submit, detail);
  if (reason != RefuseReason::kNone) return reason;
  return scheduler_.queue_full() ? RefuseReason::kOverloaded : RefuseReason::kNone;
}

void Engine::on_submit(const Submit& submit, Instant now) {
  SubmitReply reply{.request = submit.request.id, .leg = submit.leg};
  reply.reason = refusal(submit, reply.detail);
  if (reply.reason != RefuseReason::kNone) {
    ++counters_.refused;
    outgoing_.push_back(std::move(reply));
    return;
  }
  Sequence& sequence = scheduler_.add(submit, now);
  by_request_.emplace(submit.request.id, &sequence);
  if (submit.leg != Leg::kWhole) transfer_ids_.insert(submit.transfer);
  earliest_deadline_ = std::min(earliest_deadline_, sequence.deadline);
  if (sequence.wants_grant()) return;  // answered when its blocks are reserved
  ++counters_.accepted;
  reply.accepted = true;
  reply.cached_tokens = scheduler_.cached_tokens(sequence);
  outgoing_.push_back(std::move(reply));
}

void Engine::on_release(const Release& release) {
  const auto it = by_request_.find(release.request);
  if (it == by_request_.end()) return;
  ++counters_.released;
  remove(*it->second);
}

void Engine::give_up(const std::string& why) {
  for (auto it = scheduler_.sequences().begin(); it != scheduler_.sequences().end();) {
    Sequence& sequence = *(it++)->second;
    end(sequence, FinishReason::kWorkerEnds, why);
  }
}

void Engine::break_off(const std::string& why) {
  running_ = 0;
  scheduler_.abandon_steps();
  while (!scheduler_.finished().empty()) let_go(*scheduler_.finished().begin()->second);
  give_up(why);
}

// ---- time ----------------------------------------------------------------------------------------

void Engine::on_tick(Instant now) {
  cache_.copy_out();
  if (now < earliest_deadline_) return;
  earliest_deadline_ = kNever;
  for (auto it = scheduler_.sequences().begin(); it != scheduler_.sequences().end();) {
    Sequence& sequence = *(it++)->second;
    if (sequence.deadline <= now) {
      ++counters_.deadline_expired;
      end(sequence, FinishReason::kError, "deadline exceeded");
    } else {
      earliest_deadline_ = std::min(earliest_deadline_, sequence.deadline);
    }
  }
}

Instant Engine::next_deadline() const {
  if (scheduler_.sequences().empty()) return kNever;
  return std::min(earliest_deadline_, scheduler_.next_deadline());
}

// ---- transfers -----------------------------------------------------------------------------------

void Engine::on_kv_event(const KvEvent& event, Instant) {
  if (const auto* landed = std::get_if<KvLanded>(&event)) on_landed(*landed);
  if (const auto* failed = std::get_if<KvFailed>(&event)) on_failed(*failed);
  if (const auto* drained = std::get_if<KvDrained>(&event)) on_drained(*drained);
}

void Engine::on_host_copied(const HostCopied& event, Instant now) {
  const bool well = cache_.copied(event);
  scheduler_.fetched(event.id, well, now);
}

void Engine::on_landed(const KvLanded& event) {
  const auto it = transfers_.find(event.transfer);
  if (it == transfers_.end() || it->second.leg != Leg::kDecode) {
    ++counters_.late_events;
    return;
  }
  Sequence* sequence = it->second.sequence;
  const TokenId first = event.first_token.token;
  if (sequence != nullptr && !scheduler_.knows(first)) {  // a peer's word
    KvFailed failed{.transfer = event.transfer,
                    .reason = cat(it->second.peer.name, " says that the first token is ", first,
                                  ", which the vocabulary does not have"),
                    .report = event.report};
    failed.report.ok = false;
    failed.report.error = failed.reason;
    on_failed(failed);
    return on_quiet(event.transfer);
  }
  outgoing_.push_back(event.report);
  if (sequence == nullptr) {  // given up meanwhile; nobody writes any more
    on_quiet(event.transfer);
    return;
  }
  transfers_.erase(it);
  scheduler_.landed(*sequence, first);
  const FinishReason finish = event.finish != FinishReason::kNone ? event.finish : finish_after(*sequence);
  if (finish != FinishReason::kNone) end(*sequence, finish, "");
}

void Engine::on_failed(const KvFailed& event) {
  const auto it = transfers_.find(event.transfer);
  if (it == transfers_.end() || it->second.leg != Leg::kDecode) {
    ++counters_.late_events;
    return;
  }
  ++counters_.transfers_failed;
  outgoing_.push_back(event.report);
  it->second.stopped = true;
  if (it->second.sequence != nullptr)
    end(*it->second.sequence, FinishReason::kError, cat("KV transfer failed: ", event.reason));
}

void Engine::on_drained(const KvDrained& event) {
  const auto it = transfers_.find(event.transfer);
  if (it == transfers_.end() || event.as_source != (it->second.leg == Leg::kPrefill)) {
    ++counters_.late_events;
    return;
  }
  it->second.stopped = true;
  Sequence* sequence = it->second.sequence;
  if (sequence != nullptr && sequence->state == SequenceState::kSending) {
    remove(*sequence);  // the leg is done; the receiver tells how the transfer went
  } else if (sequence != nullptr) {
    end(*sequence, FinishReason::kError, cat("KV transfer ended early: ", event.error));
  }
  on_quiet(event.transfer);
}

// Nobody moves bytes of it any more.
void Engine::on_quiet(TransferId id) {
  const auto it = transfers_.find(id);
  BATON_CHECK(it != transfers_.end() && it->second.sequence == nullptr);
  if (it->second.leg == Leg::kPrefill) {
    cache_.unlease(id);
  } else {
    cache_.drained(id);
  }
  close_transfer(it);
}

void Engine::close_transfer(std::map<TransferId, Transfer>::iterator transfer) {
  if (!transfer->second.rows_run) {  // else let_go() says it
    transfer_ids_.erase(transfer->first);
    released_.push_back({.request = transfer->second.request, .leg = transfer->second.leg});
  }
  transfers_.erase(transfer);
}

// ---- told by the scheduler -----------------------------------------------------------------------

std::vector<uint32_t> Engine::generations_of(std::span<const BlockId> blocks) const {
  std::vector<uint32_t> out;
  out.reserve(blocks.size());
  for (const BlockId block : blocks) out.push_back(cache_.pool().generation(block));
  return out;
}

absl::Status Engine::on_admitted(Sequence& sequence, int32_t first_block) {
  if (sequence.leg == Leg::kWhole || sequence.landed) return absl::OkStatus();
  const bool sends = sequence.leg == Leg::kPrefill;
  const auto prompt_blocks =
      static_cast<size_t>((sequence.prompt_tokens + cache_.block_tokens() - 1) / cache_.block_tokens());
  const std::vector<BlockId> blocks(sequence.blocks.begin() + first_block * !sends,
                                    sequence.blocks.begin() + static_cast<ptrdiff_t>(prompt_blocks));
  absl::Status status = sends ? exchange_.send({.transfer = sequence.transfer,
                                                .request = sequence.request.id,
                                                .destination = *sequence.peer,
                                                .prompt_tokens = sequence.prompt_tokens,
                                                .blocks = blocks})
                              : exchange_.expect({.transfer = sequence.transfer,
                                                  .request = sequence.request.id,
                                                  .source = *sequence.peer,
                                                  .first_block = first_block,
                                                  .prompt_tokens = sequence.prompt_tokens,
                                                  .blocks = blocks,
                                                  .generations = generations_of(blocks)});
  if (!status.ok()) return status;
  transfers_.emplace(sequence.transfer, Transfer{.request = sequence.request.id,
                                                 .leg = sequence.leg,
                                                 .peer = *sequence.peer,
                                                 .sequence = &sequence});
  if (!sends) {
    ++counters_.accepted;
    outgoing_.push_back(SubmitReply{.request = sequence.request.id,
                                    .leg = sequence.leg,
                                    .accepted = true,
                                    .cached_tokens = sequence.cached_tokens});
  }
  return absl::OkStatus();
}

void Engine::on_dropped(Sequence& sequence, const absl::Status& why) {
  const bool refused = sequence.leg == Leg::kDecode && !sequence.landed;
  if (refused) {
    // Another place may do better, the pair is not connected, or it is wrong anywhere.
    const RefuseReason reason = absl::IsResourceExhausted(why)    ? RefuseReason::kOverloaded
                                : absl::IsFailedPrecondition(why) ? RefuseReason::kUnknownPeer
                                                                  : RefuseReason::kInvalid;
    refuse(sequence, reason, std::string(why.message()));
  } else {
    report_end(sequence, FinishReason::kError, std::string(why.message()));
  }
  forget(sequence);
  if (!refused) close_leg(sequence);
}

// ---- a step --------------------------------------------------------------------------------------

const StepPlan* Engine::plan(Instant now) {
  if (full() || !scheduler_.has_work()) return nullptr;
  StepPlan& plan = plans_[(oldest_ + running_) % plans_.size()];
  scheduler_.plan(now, *this, plan);
  if (!report_.sequences.empty() || !released_.empty()) flush_report(last_step_);
  if (plan.rows.empty()) return nullptr;
  ++running_;
  return &plan;
}

void Engine::prepare() {
  BATON_CHECK(running_ > 0);
  scheduler_.prepare();
}

void Engine::on_layer(const StepPlan& plan, int layer) {
  BATON_CHECK(running_ > 0);
  for (const PlannedRows& rows : plan.rows) {
    const Sequence& sequence = *rows.sequence;
    // Of a leg that ended since the plan was made nobody wants it.
    if (sequence.leg == Leg::kPrefill && sequence.state != SequenceState::kFinished)
      exchange_.layer_ready(sequence.transfer, layer, rows.first_position + rows.row_count, rows.row_count);
  }
}

void Engine::on_step_done(const StepResult& result, Instant now) {
  BATON_CHECK(running_ > 0 && result.id == plans_[oldest_].id, "steps end in order");
  const StepPlan& plan = plans_[oldest_];
  oldest_ = (oldest_ + 1) % plans_.size();
  --running_;
  last_step_ = plan.id;
  report_.sequences.reserve(result.sampled.size());
  size_t next = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    Sequence& sequence = scheduler_.computed(plan, i);
    const bool yields = next < result.sampled.size() && result.sampled[next].planned == i;
    BATON_CHECK(!plan.rows[i].sample || yields, "the executor did not sample a row");
    const SampledRow* row = yields ? &result.sampled[next++] : nullptr;
    if (sequence.state == SequenceState::kFinished) {
      if (sequence.rows_running == 0) let_go(sequence);
    } else if (row != nullptr && !row->error.ok()) {
      fail_row(sequence, row->error);
    } else if (row != nullptr) {
      take_row(sequence, plan.rows[i], *row, now);
    }
  }
  BATON_CHECK(next == result.sampled.size(), "rows that were not planned");
  count_step(plan, result);
  flush_report(plan.id);
}

// The last step with rows of a leg that ended before is done.
void Engine::let_go(Sequence& sequence) {
  const auto it = sequence.leg == Leg::kWhole ? transfers_.end() : transfers_.find(sequence.transfer);
  if (it != transfers_.end() && it->second.rows_run) {
    it->second.rows_run = false;  // the transfer is still open, and ends the leg
  } else {
    close_leg(sequence);
  }
  scheduler_.bury(sequence);
}

void Engine::count_step(const StepPlan& plan, const StepResult& result) {
  const double seconds = to_seconds(result.duration);
  scheduler_.observe_step(seconds);
  ++counters_.steps;
  counters_.prefill_tokens += static_cast<uint64_t>(plan.prefill_rows);
  counters_.decode_tokens += static_cast<uint64_t>(plan.total_rows - plan.prefill_rows);
  counters_.step_seconds += seconds;
  counters_.last_step_seconds = seconds;
  counters_.last_batch_rows = plan.total_rows;
  counters_.last_chunk_tokens = plan.prefill_rows;
  counters_.last_batch_sequences = static_cast<int32_t>(plan.rows.size());
}

void Engine::take_row(Sequence& sequence, const PlannedRows& planned, const SampledRow& row, Instant now) {
  if (planned.prompt_logits) {
    auto& outputs = prompt_outputs_[sequence.id];
    if (planned.first_position == 0) outputs.clear();  // from the start again, after a preemption
    outputs.insert(outputs.end(), row.prompt_tokens.begin(), row.prompt_tokens.end());
  }
  BATON_CHECK(planned.sample == row.token.has_value(), "the executor did not sample a row");
  if (!row.token) return;
  sequence.tokens.push_back(row.token->token);
  SequenceTokens& report = report_for(sequence);
  report.tokens.push_back(*row.token);
  if (!sequence.reported) {
    sequence.reported = true;
    report.cached_tokens = sequence.cached_tokens;
    if (sequence.first_scheduled == kNever) sequence.first_scheduled = now;
    report.queued = sequence.first_scheduled - sequence.arrived;
    report.prefill = now - sequence.first_scheduled;
    tell_prompt(sequence);
  }
  const FinishReason finish = finish_after(sequence);
  if (sequence.leg == Leg::kPrefill) {
    // The blocks stay until the exchange has drained; the last message of the leg is this one.
    report.finish = finish;
    exchange_.finish(sequence.transfer, *row.token, finish);
    ++counters_.finished;
  } else if (finish != FinishReason::kNone) {
    end(sequence, finish, "");
  }
}

// In reports of their own, before the first token: a message has a largest size, and many alternatives for
// each token of a long prompt are more than that.
void Engine::tell_prompt(const Sequence& sequence) {
  const auto it = prompt_outputs_.find(sequence.id);
  if (it == prompt_outputs_.end()) return;
  StepReport part;
  size_t values = 0;
  const auto tell = [&] {
    part.step = last_step_;
    part.load = load();
    outgoing_.push_back(std::exchange(part, StepReport{}));
    values = 0;
  };
  for (TokenOutput& output : it->second) {
    values += 1 + output.top.size();
    if (part.sequences.empty())
      part.sequences.push_back({.request = sequence.request.id, .leg = sequence.leg});
    part.sequences.front().prompt_tokens.push_back(std::move(output));
    if (values >= prompt_values_) tell();
  }
  if (!part.sequences.empty()) tell();
  prompt_outputs_.erase(it);
}

// One sequence cannot go on (its logits are not finite, say); the others of the step are as good as ever.
void Engine::fail_row(Sequence& sequence, const absl::Status& error) {
  report_end(sequence, FinishReason::kError, std::string(error.message()));
  remove(sequence);
}

FinishReason Engine::finish_after(const Sequence& sequence) const {
  const StopParams& stop = sequence.request.stop;
  const TokenId last = sequence.tokens.back();
  const int32_t generated = sequence.generated();
  if (generated > stop.min_tokens) {
    if (std::ranges::count(stop.end_token_ids, last) > 0) return FinishReason::kEndToken;
    if (std::ranges::count(stop.stop_token_ids, last) > 0) return FinishReason::kStopToken;
  }
  return generated >= stop.max_tokens ? FinishReason::kLength : FinishReason::kNone;
}

// ---- the end of a leg ----------------------------------------------------------------------------

void Engine::end(Sequence& sequence, FinishReason finish, const std::string& error) {
  if (sequence.wants_grant()) {
    refuse(sequence,
           finish == FinishReason::kWorkerEnds ? RefuseReason::kDraining : RefuseReason::kOverloaded, error);
    forget(sequence);
    scheduler_.remove(sequence);
    return;
  }
  // A prefill leg that already sent its token has said all it had to say.
  if (sequence.state != SequenceState::kSending) report_end(sequence, finish, error);
  remove(sequence);
}

void Engine::report_end(const Sequence& sequence, FinishReason finish, const std::string& error) {
  ++(finish >= FinishReason::kError ? counters_.failed : counters_.finished);
  SequenceTokens& report = report_for(sequence);
  report.finish = finish;
  report.error = error;
}

void Engine::refuse(const Sequence& sequence, RefuseReason reason, const std::string& detail) {
  ++counters_.refused;
  if (sequence.leg != Leg::kWhole) transfer_ids_.erase(sequence.transfer);
  outgoing_.push_back(
      SubmitReply{.request = sequence.request.id, .leg = sequence.leg, .reason = reason, .detail = detail});
}

// Nothing is held of it any more, and no transfer was open.
void Engine::close_leg(const Sequence& sequence) {
  if (sequence.leg != Leg::kWhole) transfer_ids_.erase(sequence.transfer);
  released_.push_back({.request = sequence.request.id, .leg = sequence.leg});
}

void Engine::forget(const Sequence& sequence) {
  by_request_.erase(sequence.request.id);
  prompt_outputs_.erase(sequence.id);
  report_index_.erase(sequence.id);
}

// Lets go of everything the leg holds here. What an open transfer holds follows when it has drained, and what
// running steps compute with when they are done: Released is said after the last of them.
void Engine::remove(Sequence& sequence) {
  forget(sequence);
  const auto it = sequence.leg == Leg::kWhole ? transfers_.end() : transfers_.find(sequence.transfer);
  const bool open = it != transfers_.end() && it->second.sequence == &sequence;
  if (open) {
    Transfer& transfer = it->second;
    transfer.sequence = nullptr;
    transfer.rows_run = sequence.rows_running > 0;
    if (!transfer.stopped && transfer.leg == Leg::kDecode) exchange_.abandon(it->first);
    if (!transfer.stopped && transfer.leg == Leg::kPrefill) exchange_.cancel(it->first);
    transfer.stopped = true;
  } else if (sequence.rows_running == 0) {
    close_leg(sequence);
  }
  scheduler_.remove(sequence);
}

// ---- to the coordinator --------------------------------------------------------------------------

SequenceTokens& Engine::report_for(const Sequence& sequence) {
  const auto [it, inserted] = report_index_.try_emplace(sequence.id, report_.sequences.size());
  if (inserted) {
    report_.sequences.push_back(SequenceTokens{.request = sequence.request.id, .leg = sequence.leg});
  }
  return report_.sequences[it->second];
}

bool Engine::has_news() const {
  return !report_.sequences.empty() || !released_.empty() || cache_.has_changes();
}

void Engine::flush_report(StepId step) {
  report_.step = step;
  cache_.take_changes(report_.blocks_stored, report_.blocks_evicted);
  report_.load = load();
  outgoing_.push_back(std::exchange(report_, StepReport{}));
  report_index_.clear();
  for (const Released& released : released_) outgoing_.push_back(released);
  released_.clear();
}

void Engine::drain_messages(std::vector<WorkerMessage>& out) {
  if (running_ == 0 && has_news()) flush_report(last_step_);
  out.insert(out.end(), std::make_move_iterator(outgoing_.begin()), std::make_move_iterator(outgoing_.end()));
  outgoing_.clear();
}

LoadSnapshot Engine::load() const {
  LoadSnapshot load;
  scheduler_.fill(load);
  cache_.fill(load);
  load.transfers_open = static_cast<int32_t>(transfers_.size());
  return load;
}

EngineCounters Engine::counters() const {
  EngineCounters counters = counters_;
  counters.preemptions = scheduler_.preemptions();
  counters.prefix_query_tokens = scheduler_.prefix_query_tokens();
  counters.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
  counters.evictions = cache_.evictions();
  counters.host = cache_.host().counters();
  counters.host_blocks = cache_.host().index().size();
  counters.host_hit_tokens = scheduler_.host_hit_tokens();
  counters.host_fetches_failed = scheduler_.fetches_failed();
  counters.host_wait_seconds = to_seconds(scheduler_.fetch_time());
  const StepTime& model = scheduler_.step_time();
  counters.predicted_seconds = model.predicted_total();
  counters.last_predicted_seconds = model.predicted_seconds();
  counters.prediction_error_p50 = model.error_p50();
  counters.prediction_error_p95 = model.error_p95();
  counters.step_coefficients = model.coefficients();
  return counters;
}

bool Engine::idle() const {
  return scheduler_.sequences().empty() && transfers_.empty() && cache_.blocks_active() == 0 &&
         cache_.pool().copying_count() == 0;
}

void Engine::check_invariants() const {
  cache_.check_invariants();
  scheduler_.check_invariants();
  BATON_CHECK(by_request_.size() == scheduler_.sequences().size());
  BATON_CHECK(running_ > 0 || scheduler_.finished().empty());
  BATON_CHECK(cache_.pool().open_transfers() == transfers_.size());
  for (const auto& [id, transfer] : transfers_) {
    BATON_CHECK(transfer.leg == Leg::kPrefill ? cache_.pool().has_lease(id) : cache_.pool().has_landing(id));
    if (transfer.sequence != nullptr) BATON_CHECK(transfer.sequence->transfer == id && !transfer.stopped);
  }
}

}  // namespace baton::worker
