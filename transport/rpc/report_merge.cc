#include "transport/rpc/report_merge.h"

namespace baton::transport {

namespace {

constexpr int kMaxSequences = 256;  // more cost more to search than they save

wire::SequenceTokens* find(wire::StepReport& report, const wire::SequenceTokens& like) {
  for (wire::SequenceTokens& sequence : *report.mutable_sequences())
    if (sequence.request() == like.request() && sequence.leg() == like.leg()) return &sequence;
  return nullptr;
}

// Says only: more tokens, perhaps the end.
bool goes_on(const wire::SequenceTokens& s) {
  return s.prompt_tokens().empty() && s.error().empty() && s.cached_tokens() == 0 && s.queued_ns() == 0 &&
         s.prefill_ns() == 0;
}

bool can_take(const wire::SequenceTokens& last, const wire::SequenceTokens& next) {
  return last.finish() == wire::FinishReason() && last.error().empty() && goes_on(next);
}

}  // namespace

bool merge_reports(wire::WorkerMessage& last, wire::WorkerMessage& next) {
  if (!last.has_step_report() || !next.has_step_report()) return false;
  wire::StepReport& into = *last.mutable_step_report();
  wire::StepReport& from = *next.mutable_step_report();
  if (!from.blocks_evicted().empty() || into.sequences_size() + from.sequences_size() > kMaxSequences)
    return false;
  for (const wire::SequenceTokens& sequence : from.sequences()) {
    const wire::SequenceTokens* same = find(into, sequence);
    if (same != nullptr && !can_take(*same, sequence)) return false;
  }
  for (wire::SequenceTokens& sequence : *from.mutable_sequences()) {
    if (wire::SequenceTokens* same = find(into, sequence)) {
      same->mutable_tokens()->MergeFrom(sequence.tokens());
      same->set_finish(sequence.finish());
    } else {
      into.add_sequences()->Swap(&sequence);
    }
  }
  into.mutable_blocks_stored()->MergeFrom(from.blocks_stored());
  into.set_step(from.step());
  into.mutable_load()->Swap(from.mutable_load());
  return true;
}

}  // namespace baton::transport
