#pragma once

#include "kernels/cuda/linear_epilogue.cuh"

// y = x W^T with bits that do not depend on how many rows x has. The rule:
//   - 32 columns k0 .. k0+31 are two tensor-core products (mma m16n8k16): the first takes columns 8t .. 8t+3,
//   the second
//     8t+4 .. 8t+7, t = 0..3. (Any fixed choice would do; this one lets a lane read 16 bytes of a row at
//     once.)
//   - 512 columns, ascending, are one chain from zero: a segment. Segments are added ascending, from zero.
// Every kernel here follows it, so a step of 1 row and a step of 8,192 give a row the same bits. Weights are
// the 16-row operand, activations the 8-column one, in all of them.
//
// Roofline, N x K weights, M rows: 2NK bytes of weights (+ 2MK, 4MN) against 2MNK operations. stream_kernel:
// M <= 64, bound by the weights' bytes. tile_kernel: more rows, bound by the tensor cores' mma.sync rate.
namespace baton::kernels::cuda {

inline constexpr int kSegmentColumns = 512;
inline constexpr int kStreamWarps = 8;

// Columns k .. k + 7; zeros beyond the last one, where anything may lie.
__device__ inline Words4 load_x(const LinearArgs& a, int64_t m, int k) {
  if (m >= *a.count || k >= a.cols) return {0, 0, 0, 0};
  const Words4 x = load16(a.x + m * a.ldx + k);
  return k + 8 <= a.cols ? x : Words4{x.x, x.y, 0, 0};
}

// 32 columns: c += the two products of the rule.
__device__ inline void multiply32(float (&c)[4], Words4 low, Words4 high, Words4 x) {
  mma_bf16(c, {low.x, high.x, low.y, high.y}, x.x, x.y);
  mma_bf16(c, {low.z, high.z, low.w, high.w}, x.z, x.w);
}

// M <= 8 * kTiles. A block owns 16 rows of the weights and all of K; its 8 warps take segments in turn and
// meet in shared memory after each round, which adds them ascending. Grid: strips; shared: 8 * 128 * kTiles
// floats.
template <int kTiles>
__global__ void stream_kernel(LinearArgs a) {
  begin_kernel();
  constexpr int kValues = 128 * kTiles;  // 16 rows x 8 * kTiles tokens
  float* partial = reinterpret_cast<float*>(shared_memory());
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint16_t* low = a.weights + (static_cast<int64_t>(blockIdx.x) * 16 + g) * a.ld + 8 * t;
  const uint16_t* high = low + static_cast<int64_t>(8) * a.ld;
  const int segments = (a.ld + kSegmentColumns - 1) / kSegmentColumns;
  float total[(kValues + 255) / 256] = {};
  for (int round = 0; round < segments; round += kStreamWarps) {
    const int begin = (round + warp) * kSegmentColumns;
    const int end = begin + kSegmentColumns < a.ld ? begin + kSegmentColumns : a.ld;
    float c[kTiles][4] = {};
    for (int k = begin; k < end; k += 64) {  // ld is a multiple of 64
      const Words4 low0 = load_once16(low + k), high0 = load_once16(high + k);
      const Words4 low1 = load_once16(low + k + 32), high1 = load_once16(high + k + 32);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) multiply32(c[i], low0, high0, load_x(a, i * 8 + g, k + 8 * t));
#pragma unroll
      for (int i = 0; i < kTiles; ++i) multiply32(c[i], low1, high1, load_x(a, i * 8 + g, k + 32 + 8 * t));
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {  // [warp][row][token]
      float* at = partial + warp * kValues + g * 8 * kTiles + i * 8 + 2 * t;
      at[0] = c[i][0], at[1] = c[i][1];
      at[64 * kTiles] = c[i][2], at[64 * kTiles + 1] = c[i][3];
    }
    __syncthreads();
    const int present = segments - round < kStreamWarps ? segments - round : kStreamWarps;
#pragma unroll
    for (int i = 0; i < (kValues + 255) / 256; ++i) {
      const int value = i * 256 + threadIdx.x;
      if (value < kValues)
        for (int w = 0; w < present; ++w) total[i] += partial[w * kValues + value];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < (kValues + 255) / 256; ++i)
    if (i * 256 + static_cast<int>(threadIdx.x) < kValues) partial[i * 256 + threadIdx.x] = total[i];
  __syncthreads();
  for (int i = threadIdx.x; i < kValues / 2; i += 256)  // rows 0..7 with their partners
    store_pair(a, blockIdx.x, i / (8 * kTiles), i % (8 * kTiles), partial[i], partial[kValues / 2 + i]);
}

// 128 rows of weights x 64 rows of x a block, 4 warps of 32 x 64, 64 columns a stage, 3 stages.
inline constexpr int kTileRows = 128, kTileTokens = 64, kTileColumns = 64, kTileStages = 3,
                     kTileThreads = 128;
inline constexpr int kTileStageBytes = (kTileRows + kTileTokens) * kTileColumns * 2;

// Byte of chunk c (16 bytes) of row r in a tile with 128-byte rows: neighbouring rows use opposite halves of
// the banks.
__device__ inline int tile_chunk(int r, int c) { return r * 128 + ((c ^ ((r & 1) * 4)) * 16); }

__device__ inline void load_stage(const LinearArgs& a, unsigned char* stage, int n0, int64_t m0, int k) {
  const int filled = a.strips * 16;
  for (int i = threadIdx.x; i < kTileRows * 8; i += kTileThreads) {
    const int r = i / 8, c = i % 8;
    const bool valid = k < a.ld && n0 + r < filled;
    const uint16_t* from =
        a.weights + static_cast<int64_t>(valid ? n0 + r : 0) * a.ld + (valid ? k + c * 8 : 0);
    copy_async16(stage + tile_chunk(r, c), from, valid ? 16 : 0);
  }
  unsigned char* tokens = stage + kTileRows * kTileColumns * 2;
  const int64_t count = *a.count;
  for (int i = threadIdx.x; i < kTileTokens * 8; i += kTileThreads) {
    const int r = i / 8, c = i % 8;
    const int left = m0 + r < count ? 2 * (a.cols - k - c * 8) : 0;
    copy_async16(tokens + tile_chunk(r, c), left > 0 ? a.x + (m0 + r) * a.ldx + k + c * 8 : a.x,
                 left < 0    ? 0
                 : left < 16 ? left
                             : 16);
  }
  copy_async_commit();
}

__device__ inline void multiply_stage(const unsigned char* stage, float (&acc)[2][8][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const unsigned char* tokens = stage + kTileRows * kTileColumns * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Words4 low[2], high[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      low[i] = load16(stage + tile_chunk(warp * 32 + i * 16 + g, half * 4 + t));
      high[i] = load16(stage + tile_chunk(warp * 32 + i * 16 + g + 8, half * 4 + t));
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const Words4 x = load16(tokens + tile_chunk(j * 8 + g, half * 4 + t));
#pragma unroll
      for (int i = 0; i < 2; ++i) multiply32(acc[i][j], low[i], high[i], x);
    }
  }
}

__device__ inline void end_segment(float (&total)[2][8][4], float (&acc)[2][8][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) total[i][j][e] += acc[i][j][e], acc[i][j][e] = 0;
}

// Grid: (ceil(rows / 128), ceil(M / 64)); shared: kTileStages * kTileStageBytes.
__global__ void __launch_bounds__(kTileThreads) tile_kernel(LinearArgs a) {
  begin_kernel();
  unsigned char* shared = shared_memory();
  const int n0 = blockIdx.x * kTileRows;
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTileTokens;
  if (m0 >= *a.count) return;
  float acc[2][8][4] = {}, total[2][8][4] = {};
  const int stages = a.ld / kTileColumns;
  for (int s = 0; s < kTileStages - 1; ++s)
    load_stage(a, shared + s * kTileStageBytes, n0, m0, s * kTileColumns);
  for (int s = 0; s < stages; ++s) {
    copy_async_wait<kTileStages - 2>();
    __syncthreads();  // stage s is there, and everybody is done with the one that is loaded next
    const int next = s + kTileStages - 1;
    load_stage(a, shared + next % kTileStages * kTileStageBytes, n0, m0, next * kTileColumns);
    multiply_stage(shared + s % kTileStages * kTileStageBytes, acc);
    if ((s + 1) * kTileColumns % kSegmentColumns == 0 || s + 1 == stages) end_segment(total, acc);
  }
  copy_async_wait<0>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int strip = n0 / 16 + warp * 2 + i;
    if (strip >= a.strips) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      store_pair(a, strip, g, m0 + j * 8 + 2 * t, total[i][j][0], total[i][j][2]);
      store_pair(a, strip, g, m0 + j * 8 + 2 * t + 1, total[i][j][1], total[i][j][3]);
    }
  }
}

}  // namespace baton::kernels::cuda
