#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/step_tables.h"

// Kernels that work row by row: embedding, norm, rotation and KV write, SiLU x up, moving rows. Memory-bound:
// each reads and writes every activation once, so a row of width w costs about 6w bytes (norm: 4w in, 2w out)
// against 5w operations. Sums have an order given by the width alone. Include device_words.cuh (or its
// emulation) first.
namespace baton::kernels::cuda {

// A fed row whose token could not be drawn is computed with another one: nobody will look at it. Grid: rows.
__global__ void embed_kernel(StepTables step, EmbedArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  if (row >= step.counts[kRows]) return;
  const int fed = step.fed[row];
  const int drawn = fed < 0 ? step.tokens[row] : a.drawn[fed].token, token = drawn < 0 ? 0 : drawn;
  if (fed >= 0 && threadIdx.x == 0) step.tokens[row] = token;
  const uint16_t* from = a.table + static_cast<int64_t>(token) * a.ld;
  for (int i = threadIdx.x; i < a.width; i += kRowThreads) a.out[row * a.width + i] = bf16_to_float(from[i]);
}

// out = x * norm_factor * weight. Grid: rows.
__global__ void norm_kernel(NormArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  if (row >= *a.count) return;
  const float* x = a.x + (a.index == nullptr ? row : a.index[row]) * a.width;
  const float factor = norm_factor(x, a.width, a.eps);
  for (int i = threadIdx.x; i < a.ld; i += kRowThreads)
    a.out[row * a.ld + i] = i < a.width ? float_to_bf16((x[i] * factor) * a.weight[i]) : uint16_t{0};
}

inline constexpr int kRopeWarps = 4;

// One head in shared memory, one warp: norm, then pairs (i, i + pairs) or (2i, 2i + 1).
__device__ inline void norm_head(float* head, int dim, const float* weight, float eps) {
  float squares = 0;
  for (int i = threadIdx.x % 32; i < dim; i += 32) squares = fmaf(head[i], head[i], squares);
  const float factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(dim) + eps);
  for (int i = threadIdx.x % 32; i < dim; i += 32) head[i] = (head[i] * factor) * weight[i];
  __syncwarp();
}

__device__ inline void rotate_head(float* head, const RopeArgs& a, int position) {
  const float* rotation = a.rotations + static_cast<int64_t>(position) * a.pairs * 2;
  for (int i = threadIdx.x % 32; i < a.pairs; i += 32) {
    float& x = head[a.interleaved ? 2 * i : i];
    float& y = head[a.interleaved ? 2 * i + 1 : i + a.pairs];
    const float cos = rotation[2 * i], sin = rotation[2 * i + 1];
    const float x0 = x, y0 = y;
    x = fmaf(x0, cos, -(y0 * sin));
    y = fmaf(y0, cos, x0 * sin);
  }
  __syncwarp();
}

// Grid: (rows, ceil((heads + 2 kv_heads) / 4)); shared: 4 * head_dim floats. A warp owns one head of one row.
__global__ void rope_store_kernel(StepTables step, RopeArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int all = a.heads + 2 * a.kv.kv_heads;
  const int h = blockIdx.y * kRopeWarps + warp;
  if (row >= step.counts[kRows] || h >= all) return;
  const int dim = a.kv.head_dim, position = step.positions[row];
  float* from = a.qkv + (row * all + h) * dim;
  float* head = reinterpret_cast<float*>(shared_memory()) + warp * dim;
  for (int i = lane; i < dim; i += 32) head[i] = from[i];
  __syncwarp();
  const bool is_q = h < a.heads, is_v = h >= a.heads + a.kv.kv_heads;
  const float* weight = is_q ? a.q_norm : a.k_norm;
  if (!is_v && weight != nullptr) norm_head(head, dim, weight, a.eps);
  if (!is_v) rotate_head(head, a, position);
  if (is_q) {
    for (int i = lane; i < dim; i += 32) from[i] = head[i];
    return;
  }
  const int block = step.blocks[step.block_starts[step.row_sequence[row]] + position / a.kv.block_tokens];
  const int64_t vector =
      (static_cast<int64_t>(block) * 2 * a.kv.kv_heads + (h - a.heads)) * a.kv.block_tokens +
      position % a.kv.block_tokens;  // K heads, then V heads
  for (int i = lane; i < dim; i += 32) a.kv.pool[vector * dim + i] = float_to_bf16(head[i]);
}

// out[i] = silu(gate i) * up i. Grid: rows.
__global__ void silu_kernel(SiluArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  if (row >= *a.count) return;
  for (int i = threadIdx.x; i < a.width; i += kRowThreads) {
    const int64_t gate = row * a.ldh + i / 8 * 16 + i % 8;
    a.out[row * a.ldo + i] = float_to_bf16(silu(a.h[gate]) * a.h[gate + 8]);
  }
}

// Rows that ranks made together. Grid: rows.
__global__ void add_rows_kernel(AddRowsArgs a) {
  begin_kernel();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * a.width;
  for (int i = threadIdx.x; i < a.width; i += kRowThreads) {
    const float y = a.y[first + i];
    a.residual[first + i] += a.bias == nullptr ? y : y + a.bias[i];
  }
}

// Grid: rows, parts.
__global__ void join_rows_kernel(JoinRowsArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x, part = blockIdx.y, from = (part * a.rows + row) * a.width;
  const int64_t to = row * a.parts * a.width;
  for (int i = threadIdx.x; i < a.width; i += kRowThreads) {
    if (a.bf16)
      reinterpret_cast<uint16_t*>(a.out)[2 * to + part * a.width + i] =
          reinterpret_cast<const uint16_t*>(a.gathered)[2 * from + i];
    else
      a.out[to + part * a.width + i] = a.gathered[from + i];
  }
}

// Row logit_rows[i] of a tensor becomes row i. A thread owns a column, so no row is overwritten before it has
// moved: logit_rows ascend, and row i's target is never behind a source that is still to come. Grid:
// ceil(width / 256).
__global__ void keep_rows_kernel(StepTables step, float* values, int width) {
  begin_kernel();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (column >= width) return;
  for (int i = 0; i < step.counts[kLogitRows]; ++i)
    values[static_cast<int64_t>(i) * width + column] =
        values[static_cast<int64_t>(step.logit_rows[i]) * width + column];
}

}  // namespace baton::kernels::cuda
