#include <immintrin.h>

#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

constexpr int kChains = 16;

float bf16_dots(int64_t rounds) {
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  __m512i a = _mm512_set1_epi16(0x3f80), b = _mm512_set1_epi16(0x3a83);  // 1 and about 0.001
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i)
      acc[i] = _mm512_dpbf16_ps(acc[i], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    asm volatile("" : "+v"(a), "+v"(b));
  }
  float sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm512_reduce_add_ps(acc[i]);
  return sum;
}

}  // namespace

constinit const PeakLoop kAvx512BFloat16 = {bf16_dots, kChains * 64};

}  // namespace baton::kernels::roofline
