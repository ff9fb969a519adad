#pragma once

// Arithmetic that several kernels share. Include device_words.cuh (or its emulation) first.
namespace baton::kernels::cuda {

__device__ inline float warp_sum(float value) {
  for (int apart = 16; apart >= 1; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  return value;
}

// 2^n * p(r), the contract's exponential (kernels/cpu/contract.cc), bit for bit.
__device__ inline float exponential(float x) {
  const float low = -87.0f > x ? -87.0f : x;  // a NaN passes through both
  const float clamped = 88.0f < low ? 88.0f : low;
  const float shifted = fmaf(clamped, 0x1.715476p+0f, 0x1.8p+23f);
  const float whole = shifted - 0x1.8p+23f;
  const float r = fmaf(-whole, 0x1.7f7d1cp-20f, fmaf(-whole, 0x1.62e400p-1f, clamped));
  float p = 0x1.a01a02p-13f;
  p = fmaf(p, r, 0x1.6c16c2p-10f);
  p = fmaf(p, r, 0x1.111112p-7f);
  p = fmaf(p, r, 0x1.555556p-5f);
  p = fmaf(p, r, 0x1.555556p-3f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  const uint32_t n = __float_as_uint(shifted) - 0x4b400000u;
  const float power = __uint_as_float((n + 127u) << 23);
  return x < -87.0f ? 0.0f : p * power;
}

// e^x for x <= 0 in double: worker/model/logit_loops.cc's fixed_exp, bit for bit.
__device__ inline double exponential_double(double x) {
  constexpr double kRound = 0x1.8p52;
  const double shifted = x * 1.4426950408889634074 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const long long bits = __double_as_longlong(shifted) - 0x4338000000000000ll + 1023;
  return x > -700.0
             ? p * __longlong_as_double(static_cast<long long>(static_cast<unsigned long long>(bits) << 52))
             : 0.0;
}

__device__ inline float silu(float x) { return x / (1.0f + exponential(-x)); }

}  // namespace baton::kernels::cuda
