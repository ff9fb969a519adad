#pragma once

#include <cstdint>

#include "kernels/draw_rows.h"

// What kernels are given besides activations. Plain C++20, for both compilers.
namespace baton::kernels::cuda {

// Attention of packed query rows [packed_begin, packed_end) of one sequence and KV head over KV chunks
// first..last (256 keys each, at absolute positions). With `share` query heads to a KV head, packed row p is
// row first_row + p / share of the step and head kv_head * share + p % share: the rows that read the same
// keys stand side by side. slot < 0: the result goes to the output; else to the partial results of one chunk,
// which a merge item collects.
struct AttentionItem {
  int32_t sequence = 0;
  int32_t first_row = 0;
  int32_t packed_begin = 0;
  int32_t packed_end = 0;
  int32_t kv_head = 0;
  int32_t first_chunk = 0;
  int32_t last_chunk = 0;
  int32_t slot = -1;
};

// Slots first_slot .. first_slot + chunks - 1 hold ascending chunks of packed rows [packed_begin,
// packed_end).
struct MergeItem {
  int32_t first_row = 0;
  int32_t packed_begin = 0;
  int32_t packed_end = 0;
  int32_t kv_head = 0;
  int32_t first_slot = 0;
  int32_t chunks = 0;
};

inline constexpr int kChunkKeys = 256;
inline constexpr int kTileKeys = 64;

enum StepCount : int32_t { kRows, kLogitRows, kWideItems, kNarrowItems, kMergeItems, kStepCounts };

// One step's tables in device memory, filled by one copy before it. A kernel reads how many rows there are
// from `counts`, so that a captured graph serves every step of its bucket. The embedding writes the tokens of
// fed rows, the drawing notes logits that it changes; nothing else is written.
struct StepTables {
  const int32_t* counts = nullptr;        // [kStepCounts]
  int32_t* tokens = nullptr;              // [rows]
  const int32_t* fed = nullptr;           // [rows] logit row of the step before that drew the token, or -1
  const int32_t* positions = nullptr;     // [rows]
  const int32_t* row_sequence = nullptr;  // [rows]
  const int32_t* logit_rows = nullptr;    // [logit rows]
  const int32_t* block_starts = nullptr;  // [sequences] index into blocks
  const int32_t* lengths = nullptr;       // [sequences] positions that are stored once the step's rows are
  const AttentionItem* wide_items = nullptr;    // 64 packed rows at most
  const AttentionItem* narrow_items = nullptr;  // 16 packed rows at most
  const MergeItem* merge_items = nullptr;
  const DrawRow* draws = nullptr;  // [logit rows], when the device draws
  LogitChange* changes = nullptr;
  const int32_t* blocks = nullptr;  // block tables of all sequences
};

// Where a layer's keys and values lie: [block][K|V][kv_head][block_tokens][head_dim] bf16.
struct LayerKv {
  uint16_t* pool = nullptr;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_tokens = 0;
};

}  // namespace baton::kernels::cuda
