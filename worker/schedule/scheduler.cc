#include "worker/schedule/scheduler.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"
#include "worker/schedule/by_age.h"

namespace baton::worker {
namespace {

// The most positions whose KV the request can ever need: the last token is never fed.
int64_t most_positions(const GenerateRequest& request, Leg leg) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  return leg == Leg::kPrefill ? prompt : prompt - request.answered + request.stop.max_tokens - 1;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, KvCache& cache)
    : options_(options),
      cache_(cache),
      step_time_(options.step_time),
      flights_(static_cast<size_t>(std::max(options.plans_in_flight, 1))) {
  BATON_CHECK(options.max_running > 0 && options.token_budget >= options.max_running);
  BATON_CHECK(options.context_tokens > 1 && options.min_chunk > 0 && options.headroom_tokens >= 0);
  // These lists change places all the time.
  for (auto* list : {&last_.sequences, &next_.sequences, &done_.sequences})
    list->reserve(options.max_running);
  for (Flight& flight : flights_) flight.sequences.reserve(options.max_running);
  BATON_CHECK(options.feeds_back == nullptr || options.plans_in_flight == 2);
}

Scheduler::~Scheduler() = default;

int32_t Scheduler::blocks_for(int32_t tokens) const {
  return (tokens + cache_.block_tokens() - 1) / cache_.block_tokens();
}

// Its tokens so far, and head-room for output, but never more than the request can use.
int32_t Scheduler::blocks_wanted(const Sequence& sequence) const {
  const auto now = static_cast<int64_t>(sequence.tokens.size());
  const int64_t most = std::max(most_positions(sequence.request, sequence.leg), now);
  return blocks_for(static_cast<int32_t>(std::min(now + options_.headroom_tokens, most)));
}

// ---- in and out ----------------------------------------------------------------------------------

RefuseReason Scheduler::check(const Submit& submit, std::string& detail) const {
  const GenerateRequest& request = submit.request;
  const auto refuse = [&](RefuseReason reason, std::string_view why) {
    detail = why;
    return reason;
  };
  if (request.prompt.empty()) return refuse(RefuseReason::kInvalid, "empty prompt");
  if (request.stop.max_tokens < 1) return refuse(RefuseReason::kInvalid, "max_tokens below 1");
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (request.answered < 0 || request.answered >= std::min<int64_t>(prompt, request.stop.max_tokens))
    return refuse(RefuseReason::kInvalid, "more tokens of an answer than prompt and max_tokens have");
  if (submit.leg != Leg::kWhole && !submit.peer)
    return refuse(RefuseReason::kInvalid, "a leg without a peer");
  if (!std::ranges::all_of(request.prompt, [this](TokenId t) { return knows(t); }))
    return refuse(RefuseReason::kInvalid, "prompt token outside the vocabulary");
  const int64_t total = prompt - request.answered + request.stop.max_tokens;
  if (total > options_.context_tokens)
    return refuse(RefuseReason::kTooLong,
                  cat("prompt and output have ", total, " tokens, the context ", options_.context_tokens));
  const int64_t positions = most_positions(request, submit.leg);
  if (blocks_for(static_cast<int32_t>(positions)) > cache_.pool().size())
    return refuse(RefuseReason::kNoBlocks, cat("needs KV for ", positions, " tokens, the whole pool has ",
                                               cache_.pool().size() * cache_.block_tokens()));
  return RefuseReason::kNone;
}

Sequence& Scheduler::add(const Submit& submit, Instant now) {
  auto owned = std::make_unique<Sequence>();
  Sequence& sequence = *owned;
  sequence.id = SequenceId(next_sequence_++);
  sequence.request = submit.request;
  sequence.leg = submit.leg;
  sequence.transfer = submit.transfer;
  sequence.peer = submit.peer;
  sequence.tokens = submit.request.prompt;
  sequence.prompt_tokens = static_cast<int32_t>(submit.request.prompt.size());
  sequence.fed_back = options_.feeds_back != nullptr && options_.feeds_back(submit.request);
  sequence.arrived = now;
  const Duration left = std::max(submit.request.time_left, Duration::zero());
  sequence.deadline = left >= kNever - now ? kNever : now + left;
  // Room for all it can become, so that steps do not allocate.
  const auto most = static_cast<size_t>(most_positions(submit.request, submit.leg)) + 1;
  sequence.tokens.reserve(most);
  sequence.blocks.reserve(static_cast<size_t>(blocks_for(static_cast<int32_t>(most))));
  sequence.hashes.reserve(sequence.blocks.capacity());
  extend_hashes(sequence, sequence.prompt_tokens / cache_.block_tokens());
  (sequence.wants_grant() ? reserving_ : waiting_).push_back(&sequence);
  sequences_.emplace(sequence.id, std::move(owned));
  return sequence;
}

int32_t Scheduler::cached_tokens(const Sequence& sequence) {
  match(sequence);
  return (static_cast<int32_t>(matched_.size()) + match_host(sequence)) * cache_.block_tokens();
}

bool Scheduler::remove(Sequence& sequence) {
  unprepare(sequence);
  erase_from(running_, sequence);
  erase_from(waiting_, sequence);
  erase_from(reserving_, sequence);
  erase_from(fetching_, sequence);
  if (sequence.state == SequenceState::kLanding) {
    --landing_;
    if (cache_.pool().has_landing(sequence.transfer)) cache_.abort(sequence.transfer);
  }
  if (sequence.rows_running > 0) {
    sequence.state = SequenceState::kFinished;
    finished_.insert(sequences_.extract(sequence.id));
    return false;
  }
  cache_.release(sequence.blocks);
  BATON_CHECK(sequences_.erase(sequence.id) == 1);
  return true;
}

void Scheduler::bury(Sequence& sequence) {
  BATON_CHECK(sequence.state == SequenceState::kFinished && sequence.rows_running == 0);
  cache_.release(sequence.blocks);
  BATON_CHECK(finished_.erase(sequence.id) == 1);
}

void Scheduler::abandon_steps() {
  running_plans_ = 0;
  for (Flight& flight : flights_) cache_.release(flight.replaced);
  for (auto& [id, sequence] : sequences_) sequence->rows_running = 0;
  for (auto& [id, sequence] : finished_) sequence->rows_running = 0;
}

Sequence* Scheduler::find(SequenceId id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

void Scheduler::drop(Sequence& sequence, const absl::Status& why, AdmissionListener& listener) {
  listener.on_dropped(sequence, why);
  remove(sequence);
}

// ---- planning ------------------------------------------------------------------------------------

void Scheduler::Draft::clear() {
  plan.rows.clear();
  plan.total_rows = 0;
  plan.prefill_rows = 0;
  sequences.clear();
  load = StepLoad{};
  prompt_logit_rows = 0;
  valid = false;
}

void Scheduler::plan(Instant now, AdmissionListener& listener, StepPlan& plan) {
  BATON_CHECK(running_plans_ < flights_.size());
  std::swap(last_.plan, plan);  // the caller's memory is used again
  last_.clear();
  room_wanted_ = false;
  count_decoding();
  if (next_.valid) {
    std::swap(last_, next_);
    next_.valid = false;
  } else {
    plan_decodes(listener);
    plan_prefills(last_);
  }
  end_fetches(now, listener);
  if (!room_wanted_) admit(now, listener);
  if (expire_grants(now, listener) && !room_wanted_) admit(now, listener);  // whom they stood in the way of
  if (!last_.plan.rows.empty()) launch(now);
  std::swap(last_.plan, plan);
}

void Scheduler::count_decoding() {
  decoding_ = decoding_elsewhere_ = 0;
  for (const Sequence* sequence : running_) {
    if (sequence->state != SequenceState::kDecoding) continue;
    ++decoding_;
    decoding_elsewhere_ += sequence->rows_running > 0;
  }
}

void Scheduler::launch(Instant now) {
  last_.plan.id = StepId(next_step_++);
  Flight& flight = flights_[(oldest_ + running_plans_++) % flights_.size()];
  flight.id = last_.plan.id;
  flight.load = last_.load;
  std::swap(flight.sequences, last_.sequences);
  for (size_t i = 0; i < flight.sequences.size(); ++i) {
    Sequence& sequence = *flight.sequences[i];
    sequence.rows_running += last_.plan.rows[i].row_count;
    sequence.planned_row = static_cast<int32_t>(i);
    if (sequence.first_scheduled == kNever) sequence.first_scheduled = now;
  }
}

// The running step computes its last known token: a new one comes out.
bool Scheduler::yields(const Sequence& sequence) {
  return sequence.computed + sequence.rows_running == static_cast<int32_t>(sequence.tokens.size());
}

// Behind the token that the running step draws, if it is not one that ends it.
bool Scheduler::goes_on(const Sequence& sequence) {
  return sequence.leg != Leg::kPrefill && sequence.generated() + 1 < sequence.request.stop.max_tokens;
}

// Decodes, and its next token is known or will be when the plan at hand needs it.
bool Scheduler::wants_row(const Sequence& sequence) {
  if (sequence.rows_running == 0) return sequence.state == SequenceState::kDecoding;
  return sequence.fed_back && yields(sequence) && goes_on(sequence);
}

void Scheduler::prepare() {
  if (flights_.size() > 1) return;
  next_.clear();
  for (Sequence* sequence : running_) {
    if (!yields(*sequence) || !goes_on(*sequence)) continue;
    const int32_t position = sequence->computed + sequence->rows_running;
    const auto wanted = static_cast<size_t>(position / cache_.block_tokens()) + 1;
    // Who must give way is decided between steps.
    if (sequence->blocks.size() < wanted && !cache_.allocate(1, sequence->blocks)) return;
    add_decode(*sequence, position, next_);
  }
  plan_prefills(next_);
  next_.valid = true;
}

void Scheduler::unprepare(const Sequence& sequence) {
  const auto found = std::ranges::find(next_.sequences, &sequence);
  if (!next_.valid || found == next_.sequences.end()) return;
  const auto row = next_.plan.rows.begin() + (found - next_.sequences.begin());
  next_.plan.total_rows -= row->row_count;
  next_.load.decode_rows -= 1;
  next_.load.decode_context -= row->first_position + 1;
  // What a chunk took is the others' now; and when nobody waits for a token the chunks may be larger.
  next_.valid = sequence.state == SequenceState::kDecoding && next_.load.decode_rows > 0;
  next_.plan.rows.erase(row);
  next_.sequences.erase(found);
}

// The oldest that are in no running plan, at most this plan's share; everyone where tokens are fed back.
void Scheduler::plan_decodes(AdmissionListener& listener) {
  const auto plans = static_cast<int32_t>(flights_.size());
  const int32_t share =
      options_.feeds_back != nullptr ? options_.max_running : (decoding_ + plans - 1) / plans;
  for (size_t i = 0; i < running_.size() && last_.plan.total_rows < share;) {
    Sequence& sequence = *running_[i];
    if (!wants_row(sequence)) {
      ++i;
      continue;
    }
    if (!grow(sequence, i, listener)) {
      if (room_wanted_) return;
      continue;  // running_[i] is the next one now
    }
    add_decode(sequence, sequence.computed + sequence.rows_running, last_);
    if (sequence.rows_running > 0) last_.plan.rows.back().fed_by = sequence.planned_row;
    ++i;
  }
}

// Room for one more position of running_[index]. False when it was preempted itself, or when it has to wait
// for the end of a running plan (room_wanted_).
bool Scheduler::grow(Sequence& sequence, size_t index, AdmissionListener& listener) {
  const int32_t position = sequence.computed + sequence.rows_running;
  BATON_CHECK(position + (sequence.rows_running == 0) == static_cast<int32_t>(sequence.tokens.size()));
  const size_t wanted = static_cast<size_t>(position / cache_.block_tokens()) + 1;
  while (sequence.blocks.size() < wanted) {
    if (cache_.allocate(1, sequence.blocks)) continue;
    const Sequence* gone = give_up_youngest(index, listener);
    room_wanted_ = gone == nullptr;
    if (room_wanted_ || gone == &sequence) return false;
  }
  return true;
}

// Preempts (or ends) the youngest sequence in running_[from..] whose blocks no transfer reads. There is one:
// the sequence at `from` itself decodes. nullptr when that one is in a running plan, or blocks of somebody
// who left still are: they come back soon.
const Sequence* Scheduler::give_up_youngest(size_t from, AdmissionListener& listener) {
  size_t victim = running_.size() - 1;
  while (running_[victim]->leg == Leg::kPrefill) {
    BATON_CHECK(victim > from);
    --victim;
  }
  Sequence& sequence = *running_[victim];
  if (sequence.rows_running > 0 || !finished_.empty()) return nullptr;
  const Sequence* gone = &sequence;
  if (options_.preemption == PreemptionPolicy::kReject) {
    drop(sequence, absl::ResourceExhaustedError("no KV block left and preemption is off"), listener);
  } else {
    preempt(sequence);
  }
  return gone;
}

void Scheduler::preempt(Sequence& sequence) {
  BATON_CHECK(!next_.valid);
  erase_from(running_, sequence);
  cache_.release(sequence.blocks);
  sequence.state = SequenceState::kWaiting;
  sequence.computed = 0;
  sequence.published = 0;
  ++sequence.preemptions;
  ++preemptions_;
  insert_by_age(waiting_, sequence);
}

void Scheduler::add_decode(Sequence& sequence, int32_t position, Draft& draft) {
  draft.plan.rows.push_back({.sequence = &sequence,
                             .first_position = position,
                             .row_count = 1,
                             .sample = true,
                             .prompt_logits = false});
  draft.sequences.push_back(&sequence);
  ++draft.plan.total_rows;
  draft.load.decode_rows += 1;
  draft.load.decode_context += position + 1;
}

void Scheduler::plan_prefills(Draft& draft) {
  for (Sequence* sequence : running_) {
    if (sequence->state != SequenceState::kPrefilling || yields(*sequence)) continue;
    const int32_t first = sequence->computed + sequence->rows_running;
    const int32_t count = chunk_for(*sequence, first, draft);
    if (count == 0) return;
    add_chunk(*sequence, first, count, draft);
  }
}

// How many of its tokens from position `first` this step should take. The first prefill of a step always gets
// min_chunk; later ones get nothing rather than less.
int32_t Scheduler::chunk_for(const Sequence& sequence, int32_t first, const Draft& draft) const {
  const int32_t left = static_cast<int32_t>(sequence.tokens.size()) - first;
  int32_t limit = std::min(left, options_.token_budget - draft.plan.total_rows);
  if (sequence.wants_prompt_logits())
    limit = std::min(limit, options_.prompt_logit_rows - draft.prompt_logit_rows);
  if (limit <= 0) return 0;
  // A stream that is being handed over here waits for this step with its second token.
  const bool somebody_waits = draft.load.decode_rows > 0 || decoding_elsewhere_ > 0 || landing_ > 0;
  const Duration objective = somebody_waits ? options_.itl_objective : options_.step_objective;
  const int32_t count = step_time_.largest_chunk(draft.load, first, limit, to_seconds(objective));
  const int32_t least = std::min(limit, options_.min_chunk);
  if (count >= least) return count;
  return draft.plan.prefill_rows == 0 ? least : 0;
}

void Scheduler::add_chunk(Sequence& sequence, int32_t first, int32_t count, Draft& draft) {
  draft.plan.rows.push_back({.sequence = &sequence,
                             .first_position = first,
                             .row_count = count,
                             .sample = first + count == static_cast<int32_t>(sequence.tokens.size()),
                             .prompt_logits = sequence.wants_prompt_logits()});
  draft.sequences.push_back(&sequence);
  draft.plan.total_rows += count;
  draft.plan.prefill_rows += count;
  draft.load.prefill_tokens += count;
  if (sequence.wants_prompt_logits()) draft.prompt_logit_rows += count;
  draft.load.attended += attended_pairs(first, count);
}

// ---- after a step --------------------------------------------------------------------------------

void Scheduler::end_oldest(const StepPlan& plan) {
  BATON_CHECK(running_plans_ > 0 && flights_[oldest_].id == plan.id, "steps end in order");
  std::swap(done_, flights_[oldest_]);
  oldest_ = (oldest_ + 1) % flights_.size();
  --running_plans_;
  if (!done_.replaced.empty()) cache_.release(done_.replaced);
}

Sequence& Scheduler::computed(const StepPlan& plan, size_t index) {
  if (index == 0) end_oldest(plan);
  const PlannedRows& rows = plan.rows[index];
  Sequence& sequence = *done_.sequences[index];
  BATON_CHECK(rows.sequence == &sequence);
  sequence.rows_running -= rows.row_count;
  if (sequence.state == SequenceState::kFinished) return sequence;
  BATON_CHECK(rows.first_position == sequence.computed);
  sequence.computed += rows.row_count;
  BATON_CHECK(sequence.computed <= static_cast<int32_t>(sequence.tokens.size()));
  publish(sequence);
  if (rows.sample) {
    sequence.state = sequence.leg == Leg::kPrefill ? SequenceState::kSending : SequenceState::kDecoding;
    if (sequence.leg == Leg::kPrefill) erase_from(running_, sequence);
  }
  return sequence;
}

void Scheduler::landed(Sequence& sequence, TokenId first_token) {
  BATON_CHECK(sequence.state == SequenceState::kLanding);
  cache_.landed(sequence.transfer);
  --landing_;
  sequence.landed = true;
  sequence.computed = sequence.prompt_tokens;
  publish(sequence);
  sequence.tokens.push_back(first_token);
  sequence.state = SequenceState::kDecoding;
  insert_by_age(running_, sequence);
  next_.valid = false;  // it wants a row in the order of age
}

void Scheduler::extend_hashes(Sequence& sequence, int32_t blocks) {
  const auto size = static_cast<size_t>(cache_.block_tokens());
  const std::span<const TokenId> tokens(sequence.tokens);
  while (static_cast<int32_t>(sequence.hashes.size()) < blocks) {
    const BlockHash previous =
        sequence.hashes.empty() ? root_hash(hash_key_, sequence.request.tenant_salt) : sequence.hashes.back();
    sequence.hashes.push_back(
        next_hash(hash_key_, previous, tokens.subspan(sequence.hashes.size() * size, size)));
  }
}

// Only full blocks, only computed positions. The table may change; a running plan computes with it as it was.
void Scheduler::publish(Sequence& sequence) {
  const auto size = static_cast<size_t>(cache_.block_tokens());
  const int32_t full = sequence.computed / cache_.block_tokens();
  if (!sequence.publishes || sequence.published >= full) return;
  extend_hashes(sequence, full);
  const std::span<const TokenId> tokens(sequence.tokens);
  Flight& newest = flights_[(oldest_ + running_plans_ + flights_.size() - 1) % flights_.size()];
  std::vector<BlockId>* const replaced = sequence.rows_running > 0 ? &newest.replaced : nullptr;
  while (sequence.published < full && sequence.publishes) {
    const auto i = static_cast<size_t>(sequence.published);
    sequence.publishes = cache_.publish({sequence.blocks, i, sequence.transfer, replaced}, sequence.hashes[i],
                                        tokens.subspan(i * size, size));
    sequence.published += sequence.publishes;
  }
}

// ---- questions -----------------------------------------------------------------------------------

Instant Scheduler::next_deadline() const {
  Instant next = reserving_.empty() ? kNever : reserving_.front()->arrived + options_.grant_wait;
  for (const Sequence* sequence : fetching_)
    if (!sequence->fetched) next = std::min(next, sequence->fetch_deadline);
  return next;
}

void Scheduler::fill(LoadSnapshot& load) const {
  load.running = 0;
  load.waiting = static_cast<int32_t>(waiting_.size());
  load.waiting_prompt_tokens = 0;
  for (const Sequence* sequence : running_) {
    const bool decodes = sequence->state == SequenceState::kDecoding;
    load.running += decodes;
    load.waiting += !decodes;
    if (!decodes)
      load.waiting_prompt_tokens += static_cast<int64_t>(sequence->tokens.size()) - sequence->computed;
  }
  for (const Sequence* sequence : waiting_)
    load.waiting_prompt_tokens += static_cast<int64_t>(sequence->tokens.size());
  for (const Sequence* sequence : fetching_) {
    if (sequence->wants_grant()) continue;  // computed elsewhere
    ++load.waiting;
    load.waiting_prompt_tokens +=
        static_cast<int64_t>(sequence->tokens.size()) - int64_t{sequence->fetch_end} * cache_.block_tokens();
  }
  load.step_base_seconds = step_time_.base_seconds();
  load.prefill_seconds_per_token = step_time_.prefill_seconds_per_token();
  load.decode_seconds_per_sequence = step_time_.decode_seconds_per_sequence();
  load.step_error_p95 = step_time_.error_p95();
  load.chunk_tokens = static_cast<int32_t>(last_.load.prefill_tokens);
}

void Scheduler::check_invariants() const {
  std::vector<uint32_t> owners(static_cast<size_t>(cache_.pool().size()));
  int32_t landing = 0;
  size_t listed = 0;
  for (const auto& [id, s] : finished_) {
    BATON_CHECK(s->state == SequenceState::kFinished && s->rows_running > 0 && running_plans_ > 0);
    for (BlockId block : s->blocks) ++owners[block.value()];
  }
  for (const Flight& flight : flights_) {
    BATON_CHECK(running_plans_ > 0 || flight.replaced.empty());
    for (BlockId block : flight.replaced) ++owners[block.value()];
  }
  for (const auto& [id, owned] : sequences_) {
    const Sequence& s = *owned;
    BATON_CHECK(s.id == id && (s.rows_running == 0 || running_plans_ > 0));
    for (BlockId block : s.blocks) ++owners[block.value()];
    landing += s.state == SequenceState::kLanding;
    listed += s.state != SequenceState::kLanding && s.state != SequenceState::kSending;
    BATON_CHECK((s.state == SequenceState::kWaiting) == s.blocks.empty());
    BATON_CHECK(s.computed <= static_cast<int32_t>(s.tokens.size()));
    BATON_CHECK(s.computed <= static_cast<int32_t>(s.blocks.size()) * cache_.block_tokens());
  }
  BATON_CHECK(landing == landing_);
  BATON_CHECK(listed == running_.size() + waiting_.size() + reserving_.size() + fetching_.size());
  for (const auto* list : {&running_, &waiting_, &reserving_, &fetching_})
    BATON_CHECK(std::ranges::is_sorted(*list, older));
  // Every owner is a sequence: nothing leaks.
  for (size_t i = 0; i < owners.size(); ++i)
    BATON_CHECK(owners[i] == cache_.pool().owners(BlockId(static_cast<uint32_t>(i))));
}

}  // namespace baton::worker
