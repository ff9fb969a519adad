#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/step_tables.h"

// What attention kernels on tensor cores share: what a row sees, its running maximum, sum and values, how
// chunks meet, where results go. The rule that makes a row's bits its own stands in attention_kernels.cuh.
// Include device_words.cuh (or its emulation) first.
namespace baton::kernels::cuda {

__device__ inline int first_seen(const AttentionArgs& a, int position) {
  return a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
}

// The vector of one key (part 0) or value (part 1).
__device__ inline const uint16_t* kv_vector(const LayerKv& kv, const int32_t* blocks, int position, int part,
                                            int head) {
  const int64_t block = blocks[position / kv.block_tokens];
  return kv.pool +
         (((block * 2 + part) * kv.kv_heads + head) * kv.block_tokens + position % kv.block_tokens) *
             kv.head_dim;
}

// How two states meet; a state of which a row has seen nothing is (-inf, 0, 0).
struct MergeFactors {
  float max, keep, add;
};
__device__ inline MergeFactors merge_factors(float total_max, float chunk_max) {
  const float max = fmaxf(total_max, chunk_max);
  const float base = max == -INFINITY ? 0.0f : max;
  return {max, exp2_fast(total_max - base), exp2_fast(chunk_max - base)};
}
__device__ inline float merged(float total, float chunk, MergeFactors f) {
  return fmaf(total, f.keep, chunk * f.add) + 0.0f;
}

// What a warp knows of its 16 packed rows: lane 4g + t holds rows g (low) and g + 8 (high), columns 2t, 2t+1
// of each 8.
template <int kDim>
struct RowState {
  float max[2];
  float sum[2];  // of this lane's columns
  float values[kDim / 8][4];
  __device__ void clear() {
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) values[d][0] = values[d][1] = values[d][2] = values[d][3] = 0;
  }
};

struct RowRange {
  int first[2];  // positions that the lane's two rows see
  int last[2];
};

// The running maximum takes the tile in; s becomes the weights.
template <int kDim>
__device__ inline void weigh_tile(RowState<kDim>& state, float (&s)[8][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = state.max[half];
#pragma unroll
    for (int n = 0; n < 8; ++n) max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    const float base = max == -INFINITY ? 0.0f : max;
    const float keep = exp2_fast(state.max[half] - base);
    state.max[half] = max;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) sum += s[n][e] = exp2_fast(s[n][e] - base);
    state.sum[half] = fmaf(state.sum[half], keep, sum);
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d)
      state.values[d][2 * half] *= keep, state.values[d][2 * half + 1] *= keep;
  }
}

// A chunk ends: its sum is that of the four lanes of a row.
template <int kDim>
__device__ inline void close_chunk(RowState<kDim>& chunk) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    chunk.sum[half] += __shfl_xor_sync(0xffffffffu, chunk.sum[half], 1);
    chunk.sum[half] += __shfl_xor_sync(0xffffffffu, chunk.sum[half], 2);
  }
}

template <int kDim>
__device__ inline void merge_chunk(RowState<kDim>& total, const RowState<kDim>& chunk) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const MergeFactors f = merge_factors(total.max[half], chunk.max[half]);
    total.max[half] = f.max;
    total.sum[half] = merged(total.sum[half], chunk.sum[half], f);
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e)
        total.values[d][e] = merged(total.values[d][e], chunk.values[d][e], f);
  }
}

// The state of one chunk into its slot.
template <int kDim>
__device__ inline void store_partial(const AttentionArgs& a, const AttentionItem& item,
                                     const RowState<kDim>& state) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = threadIdx.x / 32 * 16 + g + 8 * half;
    if (item.packed_begin + r >= item.packed_end) continue;
    float* to = a.partials + (static_cast<int64_t>(item.slot) * 16 + r) * (kDim + 2);
    if (t == 0) to[0] = state.max[half], to[1] = state.sum[half];
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d)
      to[2 + d * 8 + 2 * t] = state.values[d][2 * half],
                         to[3 + d * 8 + 2 * t] = state.values[d][2 * half + 1];
  }
}

template <int kDim>
__device__ inline void store_output(const AttentionArgs& a, const AttentionItem& item,
                                    const RowState<kDim>& state) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int packed = item.packed_begin + threadIdx.x / 32 * 16 + g + 8 * half;
    if (packed >= item.packed_end) continue;
    const int64_t row = item.first_row + packed / a.share;
    const int head = item.kv_head * a.share + packed % a.share;
    const float inverse = 1.0f / state.sum[half];
    uint16_t* to = a.out + (row * 2 * a.heads + head) * kDim;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d)
      *reinterpret_cast<uint32_t*>(to + d * 8 + 2 * t) =
          pack_bf16(state.values[d][2 * half] * inverse, state.values[d][2 * half + 1] * inverse);
  }
}

// Where the lane's rows look. Rows beyond the packed range look nowhere.
template <int kWarps>
__device__ inline RowRange row_range(const StepTables& step, const AttentionArgs& a,
                                     const AttentionItem& item) {
  RowRange range;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int packed = item.packed_begin + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * half;
    range.first[half] = 0, range.last[half] = -1;
    if (packed >= item.packed_end) continue;
    range.last[half] = step.positions[item.first_row + packed / a.share];
    range.first[half] = first_seen(a, range.last[half]);
  }
  return range;
}

}  // namespace baton::kernels::cuda
