#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernel_arguments.h"

// What every matrix kernel does with its sums: bias, adding to the residual, silu(gate) * up. Strips are 16
// rows of the packed weights (cuda_linear.h). Include device_words.cuh (or its emulation) first.
namespace baton::kernels::cuda {

// The output row of row r of strip s.
__device__ inline int output_row(const LinearArgs& a, int strip, int r) {
  if (!a.interleaved) return strip * 16 + r;
  const int half = strip * 8 + r % 8;
  if (half >= a.rows / 2) return a.rows;  // filler
  return r < 8 ? half : a.rows / 2 + half;
}

__device__ inline void store_output(const LinearArgs& a, int n, int64_t m, float y) {
  if (n >= a.rows || m >= *a.count) return;
  if (a.bias != nullptr) y += a.bias[n];
  float& out = static_cast<float*>(a.out)[m * a.ldo + n];
  out = a.mode == LinearOut::kAdd ? out + y : y;
}

// Rows r and r + 8 of a strip, r < 8.
__device__ inline void store_pair(const LinearArgs& a, int strip, int r, int64_t m, float low, float high) {
  const int n = output_row(a, strip, r), n8 = output_row(a, strip, r + 8);
  if (a.mode != LinearOut::kSilu) {
    store_output(a, n, m, low);
    store_output(a, n8, m, high);
    return;
  }
  if (n >= a.rows || m >= *a.count) return;
  if (a.bias != nullptr) low += a.bias[n], high += a.bias[n8];
  static_cast<uint16_t*>(a.out)[m * a.ldo + n] = float_to_bf16(silu(low) * high);
}

}  // namespace baton::kernels::cuda
