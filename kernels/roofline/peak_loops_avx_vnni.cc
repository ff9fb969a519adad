#include <immintrin.h>

#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

constexpr int kChains = 12;

float int8_dots(int64_t rounds) {
  __m256i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_epi32(i);
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_dpbusd_avx_epi32(acc[i], a, b);
    asm volatile("" : "+x"(a), "+x"(b));
  }
  int64_t sum = 0;
  for (int i = 0; i < kChains; ++i) sum += _mm256_extract_epi32(acc[i], 0);
  return static_cast<float>(sum);
}

}  // namespace

constinit const PeakLoop kAvxVnniInt8 = {int8_dots, kChains * 64};

}  // namespace baton::kernels::roofline
