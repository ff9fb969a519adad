#pragma once

// What a block of kRowThreads threads finds of one row. Include device_words.cuh (or its emulation) first.
namespace baton::kernels::cuda {

inline constexpr int kRowThreads = 256;

// The same sum in every thread: 32 lanes 16, 8, 4, 2, 1 apart, then the warps ascending.
__device__ inline float block_sum(float value) {
  __shared__ float warps[kRowThreads / 32];
  for (int apart = 16; apart >= 1; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = warps[0];
  for (int w = 1; w < kRowThreads / 32; ++w) sum += warps[w];
  return sum;
}

// The same maximum in every thread.
__device__ inline float block_max(float value) {
  __shared__ float warps[kRowThreads / 32];
  for (int apart = 16; apart >= 1; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, apart));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float max = warps[0];
  for (int w = 1; w < kRowThreads / 32; ++w) max = fmaxf(max, warps[w]);
  return max;
}

// 1 / sqrt(mean of squares + eps) of one row.
__device__ inline float norm_factor(const float* x, int width, float eps) {
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kRowThreads) squares = fmaf(x[i], x[i], squares);
  return 1.0f / sqrtf(block_sum(squares) / static_cast<float>(width) + eps);
}

}  // namespace baton::kernels::cuda
