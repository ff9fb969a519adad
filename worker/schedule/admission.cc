// Who of those that wait begins, and with what of the caches: the scheduler's third step (scheduler.h).
#include <algorithm>

#include "base/check.h"
#include "worker/schedule/by_age.h"
#include "worker/schedule/scheduler.h"

namespace baton::worker {

void Scheduler::admit(Instant now, AdmissionListener& listener) {
  bool compute_left = true;
  while (static_cast<int32_t>(running_.size() + fetching_.size()) + landing_ < options_.max_running) {
    Sequence* next = reserving_.empty() ? nullptr : reserving_.front();
    if (compute_left && !waiting_.empty() && (next == nullptr || older(waiting_.front(), next)))
      next = waiting_.front();
    if (next == nullptr) return;
    const bool waits_for_room = blocked_ == next->id;
    if (waits_for_room && blocked_version_ == cache_.version()) return;
    // Who waits for room takes it when it is there, and begins when a step has tokens left for it.
    if (!next->wants_grant() &&
        ((!waits_for_room && chunk_for(*next, 0, last_) == 0) || is_being_computed(*next))) {
      compute_left = false;  // decode legs may still reserve
      continue;
    }
    if (!take_blocks(*next)) return;  // whoever is younger must not take what this one waits for
    if (match_host(*next) > 0) {
      begin_fetch(*next, now);
    } else if (next->wants_grant()) {
      admit_decode_leg(*next, now, listener);
    } else {
      admit_prefill(*next, listener);
    }
  }
}

// The next block that it does not find is one that a running prefill is about to publish: with budget left
// that is in this step or the next, so nobody waits for long, and nothing is computed twice. Or one that is
// on its way from host memory, which has its deadline.
bool Scheduler::is_being_computed(Sequence& sequence) {
  if (sequence.wants_prompt_logits()) return false;
  const int32_t usable = (static_cast<int32_t>(sequence.tokens.size()) - 1) / cache_.block_tokens();
  extend_hashes(sequence, usable);
  match(sequence);
  const size_t missing = matched_.size();
  if (static_cast<int32_t>(missing) >= usable) return false;
  const auto has_it = [&](const Sequence* other) {
    return other->publishes && other->hashes.size() > missing &&
           other->hashes[missing] == sequence.hashes[missing];
  };
  return std::ranges::any_of(running_,
                             [&](const Sequence* other) {
                               return other->state == SequenceState::kPrefilling &&
                                      !other->wants_prompt_logits() && has_it(other);
                             }) ||
         std::ranges::any_of(fetching_, [&](const Sequence* other) {
           return !other->fetched && other->fetch_end > static_cast<int32_t>(missing) && has_it(other);
         });
}

void Scheduler::match(const Sequence& sequence) {
  matched_.clear();
  if (sequence.wants_prompt_logits()) return;
  const auto tokens = static_cast<int32_t>(sequence.tokens.size());
  const int32_t limit = (tokens - 1) / cache_.block_tokens();  // one token is left to compute
  cache_.match(sequence.hashes, sequence.tokens, limit, matched_);
}

// The whole table at once, or nothing.
bool Scheduler::take_blocks(Sequence& sequence) {
  extend_hashes(sequence, static_cast<int32_t>(sequence.tokens.size()) / cache_.block_tokens());
  match(sequence);
  const int32_t fresh = blocks_wanted(sequence) - static_cast<int32_t>(matched_.size());
  // Each decoding sequence may want a block in the next steps: do not admit only to preempt.
  const int64_t spare = flights_.size() > 1 ? decoding_ : static_cast<int64_t>(last_.load.decode_rows);
  if (fresh + spare > cache_.available(matched_)) {
    blocked_ = sequence.id;
    blocked_version_ = cache_.version();
    return false;
  }
  cache_.hold(matched_);
  sequence.blocks.assign(matched_.begin(), matched_.end());
  BATON_CHECK(cache_.allocate(fresh, sequence.blocks));
  sequence.published = static_cast<int32_t>(matched_.size());
  sequence.computed = sequence.published * cache_.block_tokens();
  if (cache_.host().open()) cache_.touch_host(sequence.hashes);
  return true;
}

void Scheduler::count_cached(Sequence& sequence) {
  if (sequence.preemptions > 0) return;
  sequence.cached_tokens = sequence.computed;
  prefix_query_tokens_ += sequence.prompt_tokens;
  prefix_hit_tokens_ += sequence.cached_tokens;
  host_hit_tokens_ += sequence.host_tokens;
}

// ---- host memory ---------------------------------------------------------------------------------

// Behind what match() or take_blocks() found in the pool.
int32_t Scheduler::match_host(const Sequence& sequence) {
  slots_.clear();
  if (!cache_.host().usable() || !sequence.may_fetch || sequence.wants_prompt_logits()) return 0;
  const auto limit = (static_cast<int32_t>(sequence.tokens.size()) - 1) / cache_.block_tokens();
  const auto from = static_cast<int32_t>(matched_.size());
  cache_.match_host(sequence.hashes, sequence.tokens, from, limit, slots_);
  const auto found = static_cast<int32_t>(slots_.size());
  return found * cache_.block_tokens() < options_.least_fetch ? 0 : found;
}

// Of a sequence that has its table.
void Scheduler::begin_fetch(Sequence& sequence, Instant now) {
  sequence.fetch_begun = now;
  sequence.fetch_deadline =
      sequence.wants_grant() ? sequence.arrived + options_.grant_wait : now + options_.fetch_wait;
  erase_from(waiting_, sequence);
  erase_from(reserving_, sequence);
  insert_by_age(fetching_, sequence);
  sequence.state = SequenceState::kFetching;
  sequence.fetched = false;
  sequence.fetch_end = sequence.published + static_cast<int32_t>(slots_.size());
  const auto blocks = std::span<const BlockId>(sequence.blocks).subspan(sequence.published, slots_.size());
  sequence.fetch = cache_.fetch(blocks, slots_);
}

void Scheduler::fetched(HostCopyId fetch, bool well, Instant now) {
  const auto found = std::ranges::find(fetching_, fetch, [](const Sequence* s) { return s->fetch; });
  if (found == fetching_.end()) return;  // it left, or waits no more
  Sequence& sequence = **found;
  if (!well) return fetch_failed(sequence, now);
  fetch_time_ += now - sequence.fetch_begun;
  sequence.host_tokens = (sequence.fetch_end - sequence.published) * cache_.block_tokens();
  sequence.fetched = true;
  sequence.computed = sequence.fetch_end * cache_.block_tokens();
  publish(sequence);
}

// Back into the queue; what the pool does not have will be computed.
void Scheduler::fetch_failed(Sequence& sequence, Instant now) {
  fetch_time_ += now - sequence.fetch_begun;
  ++fetches_failed_;
  erase_from(fetching_, sequence);
  cache_.release(sequence.blocks);
  sequence.state = SequenceState::kWaiting;
  sequence.may_fetch = false;
  sequence.computed = 0;
  sequence.published = 0;
  insert_by_age(sequence.wants_grant() ? reserving_ : waiting_, sequence);
}

// Those whose blocks came go on, those whose time is over do without.
void Scheduler::end_fetches(Instant now, AdmissionListener& listener) {
  for (size_t i = 0; i < fetching_.size();) {
    Sequence& sequence = *fetching_[i];
    if (sequence.fetched) {
      erase_from(fetching_, sequence);
      if (sequence.wants_grant()) {
        admit_decode_leg(sequence, now, listener);
      } else {
        admit_prefill(sequence, listener);
      }
    } else if (sequence.fetch_deadline <= now) {
      cache_.give_up_fetch(sequence.fetch);
      fetch_failed(sequence, now);
    } else {
      ++i;
    }
  }
}

// ---- admission of one ----------------------------------------------------------------------------

void Scheduler::admit_decode_leg(Sequence& sequence, Instant now, AdmissionListener& listener) {
  erase_from(reserving_, sequence);
  count_cached(sequence);
  sequence.first_scheduled = now;
  sequence.state = SequenceState::kLanding;
  ++landing_;
  const int32_t first = sequence.published;
  const std::span<const BlockId> table(sequence.blocks);
  const auto landing = table.subspan(first, blocks_for(sequence.prompt_tokens) - first);
  cache_.begin_landing(sequence.transfer, landing);
  const absl::Status status = listener.on_admitted(sequence, first);
  if (status.ok()) return;
  const TransferId transfer = sequence.transfer;
  drop(sequence, status, listener);
  cache_.drained(transfer);  // nothing was started, nobody writes
}

void Scheduler::admit_prefill(Sequence& sequence, AdmissionListener& listener) {
  erase_from(waiting_, sequence);
  count_cached(sequence);
  sequence.state = SequenceState::kPrefilling;
  insert_by_age(running_, sequence);
  if (sequence.leg == Leg::kPrefill) cache_.lease(sequence.transfer, sequence.blocks);
  const absl::Status status = listener.on_admitted(sequence, sequence.published);
  if (!status.ok()) {
    if (sequence.leg == Leg::kPrefill) cache_.unlease(sequence.transfer);
    drop(sequence, status, listener);
    return;
  }
  const int32_t count = chunk_for(sequence, sequence.computed, last_);
  if (count > 0) add_chunk(sequence, sequence.computed, count, last_);
}

bool Scheduler::expire_grants(Instant now, AdmissionListener& listener) {
  const size_t before = reserving_.size();
  while (!reserving_.empty() && now - reserving_.front()->arrived >= options_.grant_wait)
    drop(*reserving_.front(), absl::ResourceExhaustedError("no room for the prompt's KV in time"), listener);
  return reserving_.size() < before;
}

}  // namespace baton::worker
