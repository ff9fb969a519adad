#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/work_list.h"

namespace baton::kernels::cuda {

// Where a step's tables lie in the one block of memory that is copied to the device before it: fixed sections
// sized by capacities, block tables last, so that a step copies used_bytes() from the start. The same layout
// holds while capacities hold, which is what a captured graph needs.
struct StepCapacity {
  int32_t rows = 0;
  int32_t wide = 0;
  int32_t narrow = 0;
  int32_t merges = 0;
  int32_t changes = 0;
  int32_t blocks = 0;

  // Grows (to powers of two) until the step fits; false when it did already.
  bool grow_to(const StepBatch& batch, const WorkList& work);
  bool operator==(const StepCapacity&) const = default;
};

class StepLayout {
 public:
  explicit StepLayout(const StepCapacity& capacity);

  size_t bytes() const { return bytes_; }
  // The tables of memory that starts at `base` (host or device).
  StepTables tables(std::byte* base) const;
  // Writes the step, with the rows that are `fed` (DeviceBackend::feed), to `base` (host) and returns how
  // many bytes from there the device needs.
  size_t fill(const StepBatch& batch, const WorkList& work, std::span<const int32_t> fed,
              std::byte* base) const;

 private:
  enum Section {
    kCounts,
    kTokens,
    kFed,
    kPositions,
    kRowSequence,
    kLogits,
    kStarts,
    kLengths,
    kWide,
    kNarrow,
    kMerges,
    kDraws,
    kChanges,
    kBlocks,
    kSections
  };
  size_t offset_[kSections];
  size_t bytes_ = 0;
};

// Decode steps are captured as graphs for these numbers of rows: 1, 2, 4, 8, 16, then by 8 to 256. 0: none
// serves.
inline constexpr int32_t kLargestBucket = 256;
inline constexpr int32_t kMostIdleRows = 7;  // of a bucket
int32_t bucket_for(int32_t rows);
// A step that a graph can serve: one row a sequence, logits of every row.
bool is_decode_step(const StepBatch& batch);

}  // namespace baton::kernels::cuda
