#pragma once

#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/row_sums.cuh"

// Rows of activations in e4m3 with a scale each, which hopper_linear.cuh multiplies: scale = m / 448, byte =
// round(value * (448 / m)) with m = the row's largest magnitude (2^-64 at least). The maximum has no order,
// so the bits are the row's own. A block a row; memory-bound as row_kernels.cuh. Not in the epilogue that
// makes the values: a row's scale is known when all of its columns are. Include device_words.cuh and
// hopper_words.cuh (or their emulation) first.
namespace baton::kernels::cuda {

template <class Value>
__device__ inline void quantise_row(const Fp8Rows& to, int64_t row, int width, Value value) {
  float most = 0x1p-64f;
  for (int i = threadIdx.x; i < width; i += kRowThreads) most = fmaxf(most, fabsf(value(i)));
  most = block_max(most);
  const float inverse = 448.0f / most;
  if (threadIdx.x == 0) to.scales[row] = most / 448.0f;
  uint32_t* words = reinterpret_cast<uint32_t*>(to.rows + row * to.ld);
  for (int w = threadIdx.x; w < to.ld / 4; w += kRowThreads) {
    float v[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) v[e] = 4 * w + e < width ? value(4 * w + e) * inverse : 0.0f;
    words[w] = pack_e4m3(v[0], v[1], v[2], v[3]);
  }
}

// norm_kernel's values. Grid: rows.
__global__ void norm_quantise_kernel(NormArgs a, Fp8Rows out) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  if (row >= *a.count) return;
  const float* x = a.x + (a.index == nullptr ? row : a.index[row]) * a.width;
  const float factor = norm_factor(x, a.width, a.eps);
  quantise_row(out, row, a.width, [&](int i) { return (x[i] * factor) * a.weight[i]; });
}

// Grid: rows.
__global__ void quantise_kernel(QuantiseArgs a) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  if (row >= *a.count) return;
  const uint16_t* x = a.x + row * a.ldx;
  quantise_row(a.out, row, a.width, [&](int i) { return bf16_to_float(x[i]); });
}

}  // namespace baton::kernels::cuda
