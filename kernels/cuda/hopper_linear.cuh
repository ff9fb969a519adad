#pragma once

#include "kernels/cuda/hopper_operands.cuh"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/linear_epilogue.cuh"
#include "kernels/cuda/tensor_map.h"

// y = x W^T on sm_90a: warpgroup products (wgmma) from shared memory that the copy engine fills (TMA). The
// rule of its numerics class, which no number of rows changes:
//   - 16 columns, ascending, are one product m64nNk16: its own order inside, the hardware's, the same for
//   every N
//   - 1,024 columns are one chain from zero: a segment. Segments are added ascending, from zero.
// With e4m3 operands (pairs of them stand where a bf16 number does) there is one rule more, since the tensor
// cores keep only some 14 bits of such sums: 128 columns, ascending by 32, are a chain from zero, which is
// multiplied by the scale of its 128 x 128 weights and added, in float32, to the segment (2,048 columns). The
// sum of the segments is multiplied by the scale of the row of x.
//
// Weights are the 64-row operand, activations the N-column one. One producer thread keeps kStages stages of
// 64 columns in flight; kGroups warpgroups of 64 weight rows each multiply them. With few blocks for the
// device, the segments of a row block are shared out over several blocks ("splits"), and the last one to end
// adds all of them: the same order.
//
// Roofline, N x K weights, M rows: as linear_kernels.cuh. A stage of 64 rows is 8 KB of weights and takes 4
// products of kTokens / 8 * 4 cycles; the memory of one of 132 SMs brings 8 KB in about 430 cycles: up to 128
// tokens it is the bound. Beyond, 128 x 128 blocks read (2 + 4) KB of shared memory a product of 64 cycles,
// below its 128 B a cycle. Include device_words.cuh and hopper_words.cuh (or their emulation) first.
namespace baton::kernels::cuda {

template <int kTokens, int kGroups, bool kFp8>
struct HopperTile {
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kColumns = kTokens;
  static constexpr int kStageBytes = (kRows + kTokens) * 128;
  // Registers hold a chain and a segment of e4m3 products, but not the sum of segments too.
  static constexpr bool kSharedTotals = kFp8 && kGroups == 2;
  static constexpr int kTotalBytes = kSharedTotals ? kRows * kTokens * 4 : 0;
  static constexpr int kFit = ((kGroups == 1 ? 100 : 200) * 1024 - kTotalBytes) / kStageBytes;
  static constexpr int kStages = kFit < 10 ? kFit : 10;
  static constexpr int kThreads = 128 * kGroups + 32;
  static constexpr int kValues = kTokens / 2;  // of a thread: 64 rows x kTokens over 128
  static constexpr int kBytes = 1024 + kTotalBytes + kStages * (kStageBytes + 16);
};

// Stages in shared memory and their barriers: full[s] ends a phase when the bytes are there, empty[s] when
// every warp has read them.
template <class Tile>
struct StageRing {
  unsigned char* stages;
  uint64_t* full;
  uint64_t* empty;
  float* totals;  // a thread's values kRows * 2 floats apart

  __device__ unsigned char* weights(int s) const { return stages + s * Tile::kStageBytes; }
  __device__ unsigned char* tokens(int s) const { return weights(s) + Tile::kRows * 128; }
};

template <class Tile>
__device__ inline StageRing<Tile> make_ring() {
  unsigned char* shared = shared_memory();
  shared += (1024 - shared_address(shared) % 1024) % 1024;
  float* totals = reinterpret_cast<float*>(shared + Tile::kStages * Tile::kStageBytes);
  uint64_t* barriers = reinterpret_cast<uint64_t*>(totals + Tile::kTotalBytes / 4);
  const StageRing<Tile> ring = {shared, barriers, barriers + Tile::kStages, totals + threadIdx.x};
  if (threadIdx.x == 0) {
    for (int s = 0; s < Tile::kStages; ++s) {
      barrier_init(ring.full + s, 1);
      barrier_init(ring.empty + s, Tile::kRows / 16);
    }
    barriers_ready();
  }
  __syncthreads();
  return ring;
}

// Which part of the product a block makes. Blocks that run together take 8 row blocks by turns, so that they
// share weights and activations in the L2 cache.
struct HopperPart {
  int row_block, token_tile;
  int first_segment;
  int stages;  // of 64 columns
};
__device__ inline HopperPart hopper_part(const LinearArgs& a, const HopperGrid& grid) {
  const int band = 8 * grid.token_tiles, first = static_cast<int>(blockIdx.x) / band * 8;
  const int rows = grid.row_blocks - first < 8 ? grid.row_blocks - first : 8;
  const int inside = static_cast<int>(blockIdx.x) % band;
  const int segments = (a.ld + kHopperSegment - 1) / kHopperSegment;
  const int begin = static_cast<int>(blockIdx.y) * grid.segments_each, end = begin + grid.segments_each;
  const int end_column = end < segments ? end * kHopperSegment : a.ld;
  return {first + inside % rows, inside / rows, begin, (end_column - begin * kHopperSegment) / 64};
}

// Weights are no kernel's results: the first stages of them are on their way while the kernel before ends.
template <class Tile>
__device__ inline void bring_stages(const StageRing<Tile>& ring, const TensorMap& weights, const TensorMap& x,
                                    const HopperPart& part) {
  const int first_row = part.row_block * Tile::kRows, first_token = part.token_tile * Tile::kColumns;
  const int first_column = part.first_segment * kHopperSegment;
  const auto bring_weights = [&](int s, int slot) {
    barrier_arrive_expecting(ring.full + slot, Tile::kStageBytes);
    tensor_load(ring.weights(slot), weights, first_column + s * 64, first_row, ring.full + slot);
  };
  for (int s = 0; s < Tile::kStages && s < part.stages; ++s) bring_weights(s, s);
  begin_kernel();
  for (int s = 0; s < part.stages; ++s) {
    const int slot = s % Tile::kStages;
    if (s >= Tile::kStages) {
      barrier_wait(ring.empty + slot, (s / Tile::kStages & 1) ^ 1);
      bring_weights(s, slot);
    }
    tensor_load(ring.tokens(slot), x, first_column + s * 64, first_token, ring.full + slot);
  }
}

// Where the values of a segment wait for the others: a thread's values 128 * kGroups floats apart.
template <class Tile>
__device__ inline float* partial_values(const HopperGrid& grid, int segment) {
  const int64_t block = static_cast<int64_t>(segment) * gridDim.x + blockIdx.x;
  return grid.partials + block * Tile::kValues * (Tile::kRows * 2) + threadIdx.x;
}

template <class Tile>
__device__ inline void end_segment(const HopperGrid& grid, int segment, const float (&sum)[Tile::kValues],
                                   float (&total)[Tile::kValues]) {
  if (gridDim.y == 1) {
#pragma unroll
    for (int v = 0; v < Tile::kValues; ++v) total[v] += sum[v];
    return;
  }
  float* to = partial_values<Tile>(grid, segment);
#pragma unroll
  for (int v = 0; v < Tile::kValues; ++v) to[v * (Tile::kRows * 2)] = sum[v];
}

// The same where blocks have no splits and registers no room.
template <class Tile>
__device__ inline void add_to_shared(float* totals, bool first, const float (&sum)[Tile::kValues]) {
#pragma unroll
  for (int v = 0; v < Tile::kValues; ++v) {
    float& total = totals[v * (Tile::kRows * 2)];
    total = (first ? 0.0f : total) + sum[v];
  }
}

// One warp of a group is done with a stage.
__device__ inline void release_stage(uint64_t* empty) {
  if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

struct StageRange {
  int begin, end;
};

// One segment: some stages of the block.
template <class Tile>
__device__ inline void multiply_segment(const StageRing<Tile>& ring, StageRange range,
                                        float (&sum)[Tile::kValues]) {
  const int group_bytes = threadIdx.x / 128 * 64 * 128;
  for (int s = range.begin; s < range.end; ++s) {
    const int slot = s % Tile::kStages;
    barrier_wait(ring.full + slot, s / Tile::kStages & 1);
    const uint64_t w = swizzled_operand(ring.weights(slot) + group_bytes),
                   x = swizzled_operand(ring.tokens(slot));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_bf16(sum, columns_on(w, k), columns_on(x, k), k > 0 || s > range.begin);
    wgmma_commit();
    wgmma_wait<1>();  // those of the stage before
    if (s > range.begin) release_stage(ring.empty + (s - 1) % Tile::kStages);
  }
  wgmma_wait<0>();
  hold(sum);
  release_stage(ring.empty + (range.end - 1) % Tile::kStages);
}

// The same of e4m3 operands; `scales` of the warp's strip and the block's first stage. A stage is 128
// columns.
template <class Tile>
__device__ inline void multiply_fp8_segment(const StageRing<Tile>& ring, const float* scales, int strips,
                                            StageRange range, float (&sum)[Tile::kValues]) {
  const int group_bytes = threadIdx.x / 128 * 64 * 128;
#pragma unroll
  for (int v = 0; v < Tile::kValues; ++v) sum[v] = 0;
  for (int s = range.begin; s < range.end; ++s) {
    const int slot = s % Tile::kStages;
    const float low = scales[int64_t{2} * s * strips], high = scales[int64_t{2} * s * strips + 1];
    barrier_wait(ring.full + slot, s / Tile::kStages & 1);
    const uint64_t w = swizzled_operand(ring.weights(slot) + group_bytes),
                   x = swizzled_operand(ring.tokens(slot));
    float chain[Tile::kValues];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_e4m3(chain, columns_on(w, k), columns_on(x, k), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    hold(chain);
    release_stage(ring.empty + slot);
#pragma unroll
    for (int v = 0; v < Tile::kValues; ++v) sum[v] = fmaf(chain[v], v % 4 < 2 ? low : high, sum[v]);
  }
}

template <class Tile>
__device__ inline int warp_strip(const HopperPart& part) {
  return part.row_block * (Tile::kRows / 16) + static_cast<int>(threadIdx.x) / 32;
}

template <class Tile, bool kFp8>
__device__ inline void multiply_stages(const StageRing<Tile>& ring, const LinearArgs& a,
                                       const HopperGrid& grid, const HopperPart& part,
                                       float (&total)[Tile::kValues]) {
  constexpr int kEach = kHopperSegment / 64;
  const int strip = warp_strip<Tile>(part) < a.strips ? warp_strip<Tile>(part) : a.strips - 1;
  for (int begin = 0; begin < part.stages; begin += kEach) {
    float sum[Tile::kValues];
    const StageRange range = {begin, begin + kEach < part.stages ? begin + kEach : part.stages};
    if constexpr (kFp8)
      multiply_fp8_segment<Tile>(
          ring, a.weight_scales + 2 * (int64_t{part.first_segment} * kEach * a.strips + strip), a.strips,
          range, sum);
    else
      multiply_segment<Tile>(ring, range, sum);
    if constexpr (Tile::kSharedTotals)
      add_to_shared<Tile>(ring.totals, begin == 0, sum);
    else
      end_segment<Tile>(grid, part.first_segment + begin / kEach, sum, total);
  }
  if constexpr (Tile::kSharedTotals) {
#pragma unroll
    for (int v = 0; v < Tile::kValues; ++v) total[v] = ring.totals[v * (Tile::kRows * 2)];
  }
}

// True in the last block of those that share a part; it sees what the others wrote.
__device__ inline bool is_last_split(const HopperGrid& grid, int* flag) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *flag = atomicAdd(grid.arrived + blockIdx.x, 1) == static_cast<int>(gridDim.y) - 1;
    if (*flag) grid.arrived[blockIdx.x] = 0;  // for the next layer
  }
  __syncthreads();
  __threadfence();
  return *flag;
}

template <class Tile>
__device__ inline void add_splits(const LinearArgs& a, const HopperGrid& grid,
                                  float (&total)[Tile::kValues]) {
  const int segments = (a.ld + kHopperSegment - 1) / kHopperSegment;
  for (int segment = 0; segment < segments; ++segment) {
    const float* from = partial_values<Tile>(grid, segment);
#pragma unroll
    for (int v = 0; v < Tile::kValues; ++v) total[v] += load_fresh(from + v * (Tile::kRows * 2));
  }
}

template <class Tile, bool kFp8>
__device__ inline void store_tile(const LinearArgs& a, const HopperPart& part,
                                  const float (&total)[Tile::kValues]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int strip = warp_strip<Tile>(part);
  const int64_t first_token = int64_t{part.token_tile} * Tile::kColumns, count = *a.count;
  if (strip >= a.strips) return;
#pragma unroll
  for (int v = 0; v < Tile::kValues; v += 2) {
    const int64_t m = first_token + v / 4 * 8 + 2 * t + v / 2 % 2;
    const float low = total[v / 4 * 4 + v / 2 % 2], high = total[v / 4 * 4 + 2 + v / 2 % 2];
    if (m >= count) continue;
    const float scale = kFp8 ? a.x_scales[m] : 1.0f;
    store_pair(a, strip, g, m, kFp8 ? low * scale : low, kFp8 ? high * scale : high);
  }
}

// Grid: (row blocks * token tiles, splits); HopperTile::kThreads; shared: HopperTile::kBytes.
template <int kTokens, int kGroups, bool kFp8>
__global__ void __launch_bounds__(HopperTile<kTokens, kGroups, kFp8>::kThreads)
    hopper_linear_kernel(const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap x,
                         LinearArgs a, HopperGrid grid) {
  using Tile = HopperTile<kTokens, kGroups, kFp8>;
  const HopperPart part = hopper_part(a, grid);
  if (int64_t{part.token_tile} * kTokens >= *a.count) return begin_kernel();  // no kernel writes counts
  const StageRing<Tile> ring = make_ring<Tile>();
  const bool multiplies = threadIdx.x < 128 * kGroups;
  float total[Tile::kValues] = {};
  if (threadIdx.x == 128 * kGroups)
    bring_stages<Tile>(ring, weights, x, part);
  else
    begin_kernel();
  if (multiplies) multiply_stages<Tile, kFp8>(ring, a, grid, part, total);
  __syncwarp();
  if (gridDim.y > 1) {
    if (!is_last_split(grid, reinterpret_cast<int*>(ring.stages)) || !multiplies) return;
    add_splits<Tile>(a, grid, total);
  }
  if (multiplies) store_tile<Tile, kFp8>(a, part, total);
}

}  // namespace baton::kernels::cuda
