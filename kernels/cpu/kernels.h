#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/cpu/contract.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/weights_ahead.h"

// The table of loops that one instruction set provides. Plain pointers and sizes: what they compute, bit for
// bit, stands in contract.h; how the rows are cut, who runs them and where scratch comes from stands in the
// backend. All loops: any thread, no allocation, no state.
namespace baton::kernels::cpu {

// What the kernels need of 32 quantised activations besides the codes.
struct ActivationGroup {
  float scale;
  float scaled_sum;          // scale * sum of the 32 codes
  float scaled_half_sum[2];  // the same of each 16
  int32_t minus_sum;         // -(sum of the 32 codes)
  int32_t minus_half_sum[2];
  int32_t unused = 0;
};
static_assert(sizeof(ActivationGroup) == 32);

// Rows of activations as a linear layer reads them: floats, and codes when a part of the layer is quantised.
struct Activations {
  int64_t rows = 0;
  int64_t cols = 0;
  const float* values = nullptr;            // [rows][cols]
  const int8_t* codes = nullptr;            // [rows][cols]
  const ActivationGroup* groups = nullptr;  // [rows][cols / 32]
  // [rows][brain_stride(cols)], rounded to bfloat16: bf16 weights are multiplied by contract::linear_brain.
  const uint16_t* brain = nullptr;
  // For Kernels::linear_tiled: the codes and groups once more, and 16 * cols bytes of scratch of the thread.
  RowTiles tiles = {};
  std::byte* opened = nullptr;
};

constexpr int64_t brain_stride(int64_t cols) { return (cols + 1) / 2 * 2; }

// KV that the thread reads next, in pieces of equal size. A loop over many products asks for a few lines of
// it with every slab of weights, so that they come meanwhile. One thread's.
struct LinesAhead {
  const std::byte* const* next = nullptr;  // the pieces to come, up to `end`
  const std::byte* const* end = nullptr;
  int64_t offset = 0;       // from each of them to where it lies
  int64_t piece_bytes = 0;  // of each
  int64_t asked = 0;        // bytes of *next
  int lines = 0;            // with each slab
};

// out[row][j] (= or +=) linear(x[row])[16 * panel_begin + j] + bias, for the panels [panel_begin, panel_end).
struct LinearTask {
  PanelsView weight;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
  Activations x;
  const float* bias = nullptr;  // [weight.rows] or none
  float* out = nullptr;
  int64_t out_stride = 0;
  bool add = false;
  LinesAhead* kv = nullptr;         // asked for meanwhile, or none
  WeightsAhead* weights = nullptr;  // of the thread, which now reads these panels; or none
};

// Where the KV of one layer, head and chunk lies: tile t of the chunk (16 tokens) has its keys at keys[t] and
// its values at values[t], in the order of key_index and value_index. Tiles outside the task's positions are
// not read.
struct KvTiles {
  KvType type = KvType::kF32;
  const std::byte* const* keys = nullptr;
  const std::byte* const* values = nullptr;
  // [16] of the chunk to be read after this one; entries may be null
  const std::byte* const* next_keys = nullptr;
};

// Elements of a tile. f32 and f16: keys [head_dim][16 tokens], values [16 tokens][head_dim]. bf16, in pairs
// that fill a word: keys [head_dim/2][16 tokens][2], values [8][head_dim][2 tokens] (head_dim is even).
// int8: keys [ceil(head_dim/4)][16 tokens][4] as code + 128, values [16 tokens][head_dim] as codes; behind
// either, at code_bytes(), the scales of the 16 tokens in float32.
constexpr int64_t key_index(KvType type, int token, int d) {
  return type == KvType::kBF16 ? d / 2 * 32 + token * 2 + d % 2 : d * 16 + token;
}
constexpr int64_t value_index(KvType type, int token, int d, int head_dim) {
  return type == KvType::kBF16 ? token / 2 * 2 * head_dim + d * 2 + token % 2 : token * head_dim + d;
}

constexpr int64_t code_bytes(int head_dim) { return int64_t{(head_dim + 3) / 4} * 64; }

// Unnormalised attention of one (row, head) over some chunks. out[head_dim] follows in scratch.
struct ChunkState {
  float max;
  float sum;
  bool started;
};

// One chunk of 256 positions for a tile of (row, head) pairs that share a KV head. Pair i: row i / share,
// head i % share; q at q + row * q_stride + head * head_dim. Row r sees positions [first[r], last[r]].
struct AttendTask {
  KvTiles kv;
  int chunk = 0;
  int rows = 0;
  int share = 1;
  int head_dim = 0;
  float scale = 0;
  bool brain_dots = false;  // contract::attend_brain instead of contract::attend: bf16 KV only
  const float* q = nullptr;
  int64_t q_stride = 0;
  const int32_t* first = nullptr;
  const int32_t* last = nullptr;
  ChunkState* states = nullptr;  // [pairs]; the chunk is merged into it
  float* out = nullptr;          // [pairs][padded head_dim]
  int64_t out_stride = 0;        // padded head_dim
  float* scratch = nullptr;      // attend_scratch_floats()
};

inline constexpr int kAttendPairs = 24;      // (row, head) pairs of a tile, unless one row has more heads
inline constexpr int kMaxAttendPairs = 256;  // query heads per KV head

constexpr int padded_dim(int head_dim) { return (head_dim + kPanelRows - 1) / kPanelRows * kPanelRows; }
inline constexpr int kScoreStride = contract::kChunk + 16;  // floats from one pair's scores to the next one's
// Scores and sums of the pairs, their rounded queries, copied values.
constexpr int64_t attend_scratch_floats(int pairs, int head_dim) {
  return int64_t{pairs} * (kScoreStride + 2 * padded_dim(head_dim)) +
         int64_t{contract::kChunk} * padded_dim(head_dim);
}

struct NormTask {
  const float* x = nullptr;
  const float* weight = nullptr;
  int64_t cols = 0;
  float eps = 0;
  float* out = nullptr;  // may be x
};

struct RotateTask {
  float* head = nullptr;
  const float* cos = nullptr;  // [pairs]
  const float* sin = nullptr;
  int64_t pairs = 0;
  bool interleaved = false;
};

// Writes one head's key and value of one token into its tile (lane = token mod 16).
struct StoreTask {
  KvType type = KvType::kF32;
  int head_dim = 0;
  int lane = 0;
  const float* key = nullptr;
  const float* value = nullptr;
  std::byte* key_tile = nullptr;
  std::byte* value_tile = nullptr;
};

struct Kernels {
  const char* name;
  void (*quantise)(const float* x, int64_t cols, int8_t* codes, ActivationGroup* groups);
  void (*rms_norm)(const NormTask& task);
  // x[cols] as bfloat16; an odd row gets a zero.
  void (*round_brain)(const float* x, int64_t cols, uint16_t* out);
  void (*linear)(const LinearTask& task);
  void (*linear_brain)(const LinearTask& task);  // the same for bf16 weights and x.brain
  // The same for quantised weights and x.tiles; nullptr: there are no matrix instructions.
  void (*linear_tiled)(const LinearTask& task);
  void (*silu_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*rotate)(const RotateTask& task);
  void (*store_kv)(const StoreTask& task);
  void (*attend)(const AttendTask& task);
  void (*attend_brain)(const AttendTask& task);  // the same for bf16 KV and brain_dots
  // out[head_dim] = o * (1 / l) of a finished pair
  void (*finish_attend)(const ChunkState& state, const float* o, int head_dim, float* out);
  // merges `next` (a later chunk) into `total`
  void (*merge_attend)(ChunkState& total, float* total_out, const ChunkState& next, const float* next_out,
                       int head_dim);
};

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx2VnniKernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;

// What the bf16 dot instruction does better than its definition.
struct BrainKernels {
  void (*linear_brain)(const LinearTask& task);
  void (*attend_brain)(const AttendTask& task);
  // sums[i] += a[i] . b[i] of 16 words of two bfloat16: for the check whether this machine keeps the contract
  void (*dots)(const uint32_t* a, const uint32_t* b, float* sums);
};
extern const BrainKernels kAvx512BrainKernels;

// What matrix instructions (AMX) do better for many rows. They want tiles_granted() (instruction_set.h).
struct TileKernels {
  void (*linear)(const LinearTask& task);
};
extern const TileKernels kAmxTileKernels;

}  // namespace baton::kernels::cpu
