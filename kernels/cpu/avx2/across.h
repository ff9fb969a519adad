#pragma once

#include <immintrin.h>

// Across the lanes of integer vectors. Internal linkage and always inlined: nothing compiled for one
// instruction set is shared with another.
namespace baton::kernels::cpu::avx2 {
namespace {

struct Larger {
  [[gnu::always_inline]] inline __m256i operator()(__m256i a, __m256i b) const {
    return _mm256_max_epi32(a, b);
  }
  [[gnu::always_inline]] inline __m128i operator()(__m128i a, __m128i b) const { return _mm_max_epi32(a, b); }
};

struct Sum {
  [[gnu::always_inline]] inline __m256i operator()(__m256i a, __m256i b) const {
    return _mm256_add_epi32(a, b);
  }
  [[gnu::always_inline]] inline __m128i operator()(__m128i a, __m128i b) const { return _mm_add_epi32(a, b); }
};

// Lane 0 = all lanes of a together, lane 1 = of b, and so on.
template <class Op>
[[gnu::always_inline]] inline __m128i across(__m256i a, __m256i b, __m256i c, __m256i d, const Op& op) {
  const __m256i ab = op(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = op(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  const __m256i all = op(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  return op(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

}  // namespace
}  // namespace baton::kernels::cpu::avx2
