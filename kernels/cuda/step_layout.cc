#include "kernels/cuda/step_layout.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace baton::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;

int32_t block_count(const StepBatch& batch) {
  size_t count = 0;
  for (const SequenceRows& s : batch.sequences) count += s.blocks.size();
  return static_cast<int32_t>(count);
}

bool grow(int32_t& capacity, size_t wanted) {
  if (static_cast<size_t>(capacity) >= wanted) return false;
  capacity = static_cast<int32_t>(std::bit_ceil(std::max<size_t>(wanted, 64)));
  return true;
}

template <class T>
void put(std::byte* base, size_t offset, std::span<const T> values) {
  if (!values.empty()) std::memcpy(base + offset, values.data(), values.size_bytes());
}

}  // namespace

bool StepCapacity::grow_to(const StepBatch& batch, const WorkList& work) {
  bool grown = grow(rows, batch.tokens.size());
  grown |= grow(wide, work.wide.size());
  grown |= grow(narrow, work.narrow.size());
  grown |= grow(merges, work.merges.size());
  grown |= grow(changes, batch.changes.size());
  grown |= grow(blocks, block_count(batch));
  return grown;
}

StepLayout::StepLayout(const StepCapacity& c) {
  const size_t row_bytes = sizeof(int32_t) * c.rows;
  const size_t sizes[kSections] = {sizeof(int32_t) * kStepCounts,
                                   row_bytes,
                                   row_bytes,
                                   row_bytes,
                                   row_bytes,
                                   row_bytes,
                                   row_bytes,
                                   row_bytes,
                                   sizeof(AttentionItem) * c.wide,
                                   sizeof(AttentionItem) * c.narrow,
                                   sizeof(MergeItem) * c.merges,
                                   sizeof(DrawRow) * c.rows,
                                   sizeof(LogitChange) * c.changes,
                                   sizeof(int32_t) * c.blocks};
  for (int s = 0; s < kSections; ++s) {
    offset_[s] = bytes_;
    bytes_ += (sizes[s] + kAlignment - 1) / kAlignment * kAlignment;
  }
}

StepTables StepLayout::tables(std::byte* base) const {
  const auto at = [&](Section s) { return reinterpret_cast<int32_t*>(base + offset_[s]); };
  return {.counts = at(kCounts),
          .tokens = at(kTokens),
          .fed = at(kFed),
          .positions = at(kPositions),
          .row_sequence = at(kRowSequence),
          .logit_rows = at(kLogits),
          .block_starts = at(kStarts),
          .lengths = at(kLengths),
          .wide_items = reinterpret_cast<const AttentionItem*>(base + offset_[kWide]),
          .narrow_items = reinterpret_cast<const AttentionItem*>(base + offset_[kNarrow]),
          .merge_items = reinterpret_cast<const MergeItem*>(base + offset_[kMerges]),
          .draws = reinterpret_cast<const DrawRow*>(base + offset_[kDraws]),
          .changes = reinterpret_cast<LogitChange*>(base + offset_[kChanges]),
          .blocks = at(kBlocks)};
}

size_t StepLayout::fill(const StepBatch& batch, const WorkList& work, std::span<const int32_t> fed,
                        std::byte* base) const {
  BATON_CHECK(fed.empty() || fed.size() == batch.tokens.size());
  const auto rows = [&](Section s) { return reinterpret_cast<int32_t*>(base + offset_[s]); };
  const int32_t counts[kStepCounts] = {
      batch.rows(), static_cast<int32_t>(batch.logit_rows.size()), static_cast<int32_t>(work.wide.size()),
      static_cast<int32_t>(work.narrow.size()), static_cast<int32_t>(work.merges.size())};
  put(base, offset_[kCounts], std::span<const int32_t>(counts));
  put(base, offset_[kTokens], batch.tokens);
  std::fill_n(rows(kFed), batch.tokens.size(), -1);
  put(base, offset_[kFed], fed);
  put(base, offset_[kPositions], batch.positions);
  put(base, offset_[kLogits], batch.logit_rows);
  put(base, offset_[kWide], std::span<const AttentionItem>(work.wide));
  put(base, offset_[kNarrow], std::span<const AttentionItem>(work.narrow));
  put(base, offset_[kMerges], std::span<const MergeItem>(work.merges));
  put(base, offset_[kDraws], batch.draws);
  put(base, offset_[kChanges], batch.changes);
  int32_t used = 0;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceRows& s = batch.sequences[i];
    std::fill_n(rows(kRowSequence) + s.first_row, s.row_count, static_cast<int32_t>(i));
    rows(kStarts)[i] = used;
    rows(kLengths)[i] = s.first_position + s.row_count;
    for (const BlockId block : s.blocks) rows(kBlocks)[used++] = static_cast<int32_t>(block.value());
  }
  const size_t end = offset_[kBlocks] + sizeof(int32_t) * used;
  BATON_CHECK(end <= bytes_);
  return end;
}

int32_t bucket_for(int32_t rows) {
  if (rows < 1 || rows > kLargestBucket) return 0;
  return rows <= 16 ? static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(rows))) : (rows + 7) / 8 * 8;
}

bool is_decode_step(const StepBatch& batch) {
  return batch.logit_rows.size() == batch.tokens.size() && batch.sequences.size() == batch.tokens.size();
}

}  // namespace baton::kernels::cuda
