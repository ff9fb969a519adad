#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/step_tables.h"

namespace baton::kernels::cuda {

// Which blocks of threads compute a step's attention. How the work is cut changes no bit
// (attention_kernels.cuh), so it is cut for speed: a sequence with few packed rows (decode) has an item of 16
// rows for every chunk of 256 keys, as long as there are slots for partial results; one with many (prefill)
// items of 64 rows that walk all chunks. Example, 8 KV heads, share 4: decode at position 1,000 is 8 x 4
// narrow items and 8 merges; 32 prompt rows are 128 packed rows, 8 x 2 wide items.
struct WorkListShape {
  int kv_heads = 0;
  int share = 0;  // query heads to a KV head
  int window = 0;
  int32_t slots = 0;  // partial results there is room for
};

struct WorkList {
  std::vector<AttentionItem> wide;
  std::vector<AttentionItem> narrow;
  std::vector<MergeItem> merges;

  // Replaces the content; allocates only beyond the largest step seen.
  void build(const StepBatch& batch, const WorkListShape& shape);
};

}  // namespace baton::kernels::cuda
