#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/contract_math.h"
#include "kernels/cpu/kernels.h"
#include "kernels/float16.h"

// The kernels in plain C++, for machines without AVX2 and as the second reader of the panel layout: one
// output at a time, straight from contract.h.
namespace baton::kernels::cpu {
namespace {

void quantise(const float* x, int64_t cols, int8_t* codes, ActivationGroup* groups) {
  const contract::QuantisedRow row = contract::quantise({x, static_cast<size_t>(cols)});
  std::ranges::copy(row.codes, codes);
  for (size_t g = 0; g < row.scales.size(); ++g) {
    int32_t half[2] = {};
    for (int i = 0; i < contract::kGroup; ++i) half[i / 16] += codes[g * contract::kGroup + i];
    const float scale = row.scales[g];
    groups[g] = {scale,
                 scale * static_cast<float>(half[0] + half[1]),
                 {scale * static_cast<float>(half[0]), scale * static_cast<float>(half[1])},
                 -(half[0] + half[1]),
                 {-half[0], -half[1]}};
  }
}

void round_brain(const float* x, int64_t cols, uint16_t* out) {
  for (int64_t k = 0; k < brain_stride(cols); ++k) out[k] = k < cols ? float_to_bfloat16(x[k]) : uint16_t{0};
}

void rms_norm(const NormTask& task) {
  const auto n = static_cast<size_t>(task.cols);
  contract::rms_norm({task.x, n}, {task.weight, n}, task.eps, {task.out, n});
}

void silu_multiply(const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = contract::silu(gate[i]) * up[i];
}

void rotate(const RotateTask& task) {
  for (int64_t i = 0; i < task.pairs; ++i) {
    float& a = task.head[task.interleaved ? 2 * i : i];
    float& b = task.head[task.interleaved ? 2 * i + 1 : i + task.pairs];
    float pair[2] = {a, b};
    const contract::Rotation rotation = {task.cos[i], task.sin[i]};
    contract::rotate(pair, {&rotation, 1}, true);
    a = pair[0];
    b = pair[1];
  }
}

// --- Linear
// -------------------------------------------------------------------------------------------------------

// Reads one output row out of its panel.
struct PanelRow {
  PanelFormat format;
  const std::byte* panel;
  int lane;
  int64_t shard_slabs;

  const std::byte* slab(int64_t shard, int64_t group) const {  // group of 32 inside the shard
    return panel + (shard * shard_slabs + group / 2) * format.slab_bytes();
  }
  int code(int64_t shard, int64_t col) const {
    const auto* at = reinterpret_cast<const uint8_t*>(slab(shard, col / contract::kGroup));
    const int64_t k = col % kSlabCols;
    if (format.code_bits == 8) return at[k / 4 * 64 + lane * 4 + k % 4] - format.zero();
    const uint8_t both = at[k / 8 * 64 + lane * 4 + k % 4];
    const int nibble = k % 8 < 4 ? both & 15 : both >> 4;
    return format.indexed ? kIq2Codes[nibble] : nibble - format.zero();
  }
  float scale(int64_t shard, int64_t col, bool min) const {
    const std::byte* from = slab(shard, col / contract::kGroup);
    const int index = static_cast<int>(col % kSlabCols / format.group);
    const std::byte* at = from + format.scale_offset(index, min) + lane * format.scale_bytes();
    float whole;
    if (format.form == ScaleForm::kMultiplier)
      return half_at(from + format.factor_offset(min) + lane * 2) *
             static_cast<float>(static_cast<int8_t>(*at));
    if (format.form == ScaleForm::kHalf) return half_at(at);
    std::memcpy(&whole, at, 4);
    return whole;
  }
  static float half_at(const std::byte* at) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return half_to_float(half);
  }
};

float quantised_shard(const PanelRow& row, int64_t shard, int64_t segment, const int8_t* codes,
                      const ActivationGroup* groups) {
  float y = 0;
  for (int64_t k = 0; k < segment; k += row.format.group) {
    int32_t dot = 0, sum = 0;
    for (int64_t i = k; i < k + row.format.group; ++i) {
      dot += row.code(shard, i) * codes[i];
      sum += codes[i];
    }
    const float scale = groups[k / contract::kGroup].scale;
    y = std::fma(static_cast<float>(dot), row.scale(shard, k, false) * scale, y);
    if (row.format.has_min) y = std::fma(row.scale(shard, k, true), scale * static_cast<float>(sum), y);
  }
  return y;
}

float float_weight(DType type, const std::byte* panel, int64_t index) {
  float whole;
  uint16_t half;
  if (type == DType::kF32) {
    std::memcpy(&whole, panel + index * 4, 4);
    return whole;
  }
  std::memcpy(&half, panel + index * 2, 2);
  return type == DType::kF16 ? half_to_float(half) : bfloat16_to_float(half);
}

contract::BrainPair brain_pair(const std::byte* at) {
  contract::BrainPair pair;
  std::memcpy(&pair, at, sizeof pair);
  return pair;
}

float brain_segment(const LinearTask& task, const std::byte* panel, int lane, int64_t row, int64_t begin,
                    int64_t end) {
  const uint16_t* x = task.x.brain + row * brain_stride(task.x.cols);
  float y = 0;
  for (int64_t k = begin; k < end; k += 2)
    y = contract::brain_dot(y, brain_pair(panel + brain_index(k, lane) * 2), {x[k], x[k + 1]});
  return y;
}

float linear_one(const LinearTask& task, int64_t output, int64_t row) {
  const PanelsView& w = task.weight;
  const std::byte* panel = w.data + output / kPanelRows * w.panel_bytes;
  const int lane = static_cast<int>(output % kPanelRows);
  const PanelFormat format = panel_format(w.type);
  const int64_t cols = task.x.cols, segment = cols / w.k_shards;
  std::vector<float> parts;
  for (int64_t s = 0; s < w.k_shards; ++s) {
    float y = 0;
    if (w.type == DType::kBF16 && task.x.brain != nullptr) {
      y = brain_segment(task, panel, lane, row, s * segment, (s + 1) * segment);
    } else if (format.code_bits == 0) {
      for (int64_t k = s * segment; k < (s + 1) * segment; ++k)
        y = std::fma(float_weight(w.type, panel,
                                  w.type == DType::kBF16 ? brain_index(k, lane) : k * kPanelRows + lane),
                     task.x.values[row * cols + k], y);
    } else {
      const PanelRow from = {format, panel, lane, (segment + kSlabCols - 1) / kSlabCols};
      const int64_t first = row * cols + s * segment;
      y = quantised_shard(from, s, segment, task.x.codes + first, task.x.groups + first / contract::kGroup);
    }
    parts.push_back(y);
  }
  return contract::sum_tree(parts);
}

void linear(const LinearTask& task) {
  const int64_t first = task.panel_begin * kPanelRows;
  const int64_t end = std::min(task.panel_end * kPanelRows, task.weight.rows);
  for (int64_t row = 0; row < task.x.rows; ++row) {
    for (int64_t output = first; output < end; ++output) {
      float y = linear_one(task, output, row);
      if (task.bias != nullptr) y = y + task.bias[output];
      float& out = task.out[row * task.out_stride + output - first];
      out = task.add ? out + y : y;
    }
  }
}

// --- Attention
// ----------------------------------------------------------------------------------------------------

float stored(KvType type, const std::byte* tile, int64_t index) {
  return float_weight(type == KvType::kF32   ? DType::kF32
                      : type == KvType::kF16 ? DType::kF16
                                             : DType::kBF16,
                      tile, index);
}

void store_one(KvType type, std::byte* tile, int64_t index, float value) {
  if (type == KvType::kF32) {
    std::memcpy(tile + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = type == KvType::kF16 ? float_to_half(value) : float_to_bfloat16(value);
  std::memcpy(tile + index * 2, &bits, 2);
}

void store_codes_kv(const StoreTask& task) {
  const auto dim = static_cast<size_t>(task.head_dim);
  const contract::QuantisedHead key = contract::quantise_head({task.key, dim});
  const contract::QuantisedHead value = contract::quantise_head({task.value, dim});
  for (int d = 0; d < task.head_dim; ++d) {
    task.key_tile[d / 4 * 64 + task.lane * 4 + d % 4] = static_cast<std::byte>(key.codes[d] + 128);
    task.value_tile[task.lane * task.head_dim + d] = static_cast<std::byte>(value.codes[d]);
  }
  std::memcpy(task.key_tile + code_bytes(task.head_dim) + task.lane * 4, &key.scale, 4);
  std::memcpy(task.value_tile + code_bytes(task.head_dim) + task.lane * 4, &value.scale, 4);
}

void store_kv(const StoreTask& task) {
  if (task.type == KvType::kInt8) return store_codes_kv(task);
  for (int d = 0; d < task.head_dim; ++d) {
    store_one(task.type, task.key_tile, key_index(task.type, task.lane, d), task.key[d]);
    store_one(task.type, task.value_tile, value_index(task.type, task.lane, d, task.head_dim), task.value[d]);
  }
}

void merge_attend(ChunkState& total, float* total_out, const ChunkState& next, const float* next_out,
                  int head_dim) {
  if (!total.started) {
    total = next;
    std::copy_n(next_out, head_dim, total_out);
    return;
  }
  const float max = std::max(total.max, next.max);
  const float a = contract::exponential(total.max - max);
  const float b = contract::exponential(next.max - max);
  total.max = max;
  total.sum = std::fma(total.sum, a, next.sum * b);
  for (int d = 0; d < head_dim; ++d) total_out[d] = std::fma(total_out[d], a, next_out[d] * b);
}

// Positions [first, last] of one chunk for one query head; `out` starts as zeros.
ChunkState attend_pair(const AttendTask& task, const float* q, int first, int last, float* out) {
  float weights[contract::kChunk];
  ChunkState state = {.max = -std::numeric_limits<float>::infinity(), .sum = 0, .started = true};
  for (int j = first; j <= last; ++j) {
    float score = 0;
    for (int d = 0; d < task.head_dim; ++d)
      score = std::fma(
          q[d],
          stored(task.kv.type, task.kv.keys[j % contract::kChunk / 16], key_index(task.kv.type, j % 16, d)),
          score);
    weights[j - first] = score * task.scale;
    state.max = std::max(state.max, weights[j - first]);
  }
  std::array<float, contract::kLanes> lanes = {};
  for (int j = first; j <= last; ++j) {
    const float p = contract::exponential(weights[j - first] - state.max);
    lanes[j % 16] += p;
    for (int d = 0; d < task.head_dim; ++d) {
      const float v = stored(task.kv.type, task.kv.values[j % contract::kChunk / 16],
                             value_index(task.kv.type, j % 16, d, task.head_dim));
      out[d] = std::fma(p, v, out[d]);
    }
  }
  state.sum = contract::sum_lanes(lanes);
  for (int d = 0; d < task.head_dim; ++d) out[d] += 0.0f;
  return state;
}

// The same by contract::attend_brain.
ChunkState attend_brain_pair(const AttendTask& task, const float* q, int first, int last, float* out) {
  float scores[contract::kChunk];
  uint16_t weights[contract::kChunk] = {};
  ChunkState state = {.max = -std::numeric_limits<float>::infinity(), .sum = 0, .started = true};
  for (int j = first; j <= last; ++j) {
    const std::byte* keys = task.kv.keys[j % contract::kChunk / 16];
    float score = 0;
    for (int d = 0; d < task.head_dim; d += 2)
      score = contract::brain_dot(score, {float_to_bfloat16(q[d]), float_to_bfloat16(q[d + 1])},
                                  brain_pair(keys + key_index(KvType::kBF16, j % 16, d) * 2));
    scores[j % contract::kChunk] = score * task.scale;
    state.max = std::max(state.max, scores[j % contract::kChunk]);
  }
  std::array<float, contract::kLanes> lanes = {};
  for (int j = first; j <= last; ++j) {
    weights[j % contract::kChunk] = contract::brain_weight(scores[j % contract::kChunk] - state.max);
    lanes[j % 16] += bfloat16_to_float(weights[j % contract::kChunk]);
  }
  for (int j = first / 2 * 2; j <= last; j += 2) {
    const std::byte* values = task.kv.values[j % contract::kChunk / 16];
    const contract::BrainPair p = {weights[j % contract::kChunk], weights[j % contract::kChunk + 1]};
    for (int d = 0; d < task.head_dim; ++d) {
      contract::BrainPair v = brain_pair(values + value_index(KvType::kBF16, j % 16, d, task.head_dim) * 2);
      if (j + 1 > last) v.odd = 0;  // may not have been written yet
      out[d] = contract::brain_dot(out[d], p, v);
    }
  }
  state.sum = contract::sum_lanes(lanes);
  for (int d = 0; d < task.head_dim; ++d) out[d] += 0.0f;
  return state;
}

float code_scale(const std::byte* tile, int head_dim, int token) {
  float scale;
  std::memcpy(&scale, tile + code_bytes(head_dim) + token * 4, 4);
  return scale;
}

// The same by contract::attend_codes.
ChunkState attend_codes_pair(const AttendTask& task, const float* q, int first, int last, float* out) {
  const int dim = task.head_dim;
  std::vector<float> filled(q, q + dim);
  filled.resize((dim + contract::kGroup - 1) / contract::kGroup * contract::kGroup);
  const contract::QuantisedRow codes = contract::quantise(filled);
  float scores[contract::kChunk];
  ChunkState state = {.max = -std::numeric_limits<float>::infinity(), .sum = 0, .started = true};
  for (int j = first; j <= last; ++j) {
    const std::byte* keys = task.kv.keys[j % contract::kChunk / 16];
    float score = 0;
    for (int group = 0; group < dim; group += contract::kGroup) {
      int32_t dot = 0;
      for (int d = group; d < std::min(dim, group + contract::kGroup); ++d)
        dot += int32_t{codes.codes[d]} * (static_cast<int>(keys[d / 4 * 64 + j % 16 * 4 + d % 4]) - 128);
      score = std::fma(static_cast<float>(dot), codes.scales[group / contract::kGroup], score);
    }
    scores[j % contract::kChunk] = (score * code_scale(keys, dim, j % 16)) * task.scale;
    state.max = std::max(state.max, scores[j % contract::kChunk]);
  }
  std::array<float, contract::kLanes> lanes = {};
  for (int j = first; j <= last; ++j) {
    const std::byte* values = task.kv.values[j % contract::kChunk / 16];
    const float p = contract::exponential(scores[j % contract::kChunk] - state.max);
    lanes[j % 16] += p;
    const float weight = p * code_scale(values, dim, j % 16);
    for (int d = 0; d < dim; ++d)
      out[d] = std::fma(weight, static_cast<float>(static_cast<int8_t>(values[j % 16 * dim + d])), out[d]);
  }
  state.sum = contract::sum_lanes(lanes);
  for (int d = 0; d < dim; ++d) out[d] += 0.0f;
  return state;
}

void attend(const AttendTask& task) {
  const int start = task.chunk * contract::kChunk;
  for (int pair = 0; pair < task.rows * task.share; ++pair) {
    const int row = pair / task.share;
    const int first = std::max(start, task.first[row]);
    const int last = std::min(start + contract::kChunk - 1, task.last[row]);
    if (first > last) continue;
    float* out = task.scratch;
    std::fill_n(out, task.head_dim, 0.0f);
    const float* q = task.q + row * task.q_stride + pair % task.share * task.head_dim;
    const auto attend_one = task.kv.type == KvType::kInt8 ? attend_codes_pair
                            : task.brain_dots             ? attend_brain_pair
                                                          : attend_pair;
    const ChunkState state = attend_one(task, q, first, last, out);
    merge_attend(task.states[pair], task.out + pair * task.out_stride, state, out, task.head_dim);
  }
}

void finish_attend(const ChunkState& state, const float* o, int head_dim, float* out) {
  const float inverse = 1.0f / state.sum;
  for (int d = 0; d < head_dim; ++d) out[d] = o[d] * inverse;
}

}  // namespace

constinit const Kernels kScalarKernels = {.name = "scalar",
                                          .quantise = quantise,
                                          .rms_norm = rms_norm,
                                          .round_brain = round_brain,
                                          .linear = linear,
                                          .linear_brain = linear,
                                          .linear_tiled = nullptr,
                                          .silu_multiply = silu_multiply,
                                          .rotate = rotate,
                                          .store_kv = store_kv,
                                          .attend = attend,
                                          .attend_brain = attend,
                                          .finish_attend = finish_attend,
                                          .merge_attend = merge_attend};

}  // namespace baton::kernels::cpu
