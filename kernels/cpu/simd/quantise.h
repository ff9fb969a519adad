#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernels.h"

// contract::quantise: groups of 32 activations become codes, a scale and the sums of the codes. Four groups
// at a time, so that what is one number a group (maximum, scale, sums) is made by one vector of four.
namespace baton::kernels::cpu::simd {

inline constexpr uint32_t kInfinityBits = 0x7f800000u;
// The bits of contract::kSmallestAmax; magnitudes compare as integers.
inline constexpr uint32_t kSmallestBits = __builtin_bit_cast(uint32_t, contract::kSmallestAmax);

// A template, like all here: what is compiled for one instruction set must not be shared with another.
template <class V>
void quantise_special(uint32_t magnitude, int8_t* codes, ActivationGroup* group) {
  for (int i = 0; i < contract::kGroup; ++i) codes[i] = 0;
  *group = {};
  group->scale = magnitude >= kInfinityBits ? __builtin_nanf("") : 0.0f;
  group->scaled_sum = group->scaled_half_sum[0] = group->scaled_half_sum[1] = group->scale * 0.0f;
}

template <class V>
void quantise_one(const float* x, int8_t* codes, ActivationGroup* group) {
  const uint32_t magnitude = V::largest_magnitude(V::load(x), V::load(x + 16));
  if (magnitude >= kInfinityBits || magnitude < kSmallestBits)
    return quantise_special<V>(magnitude, codes, group);
  const float amax = __builtin_bit_cast(float, magnitude), scale = amax / 127.0f;
  const auto by = V::set(127.0f / amax);
  const auto low = V::round(V::mul(V::load(x), by)), high = V::round(V::mul(V::load(x + 16), by));
  V::store_codes(codes, low, high);
  const int32_t sum0 = V::sum_i(low), sum1 = V::sum_i(high);
  *group = {scale,
            scale * static_cast<float>(sum0 + sum1),
            {scale * static_cast<float>(sum0), scale * static_cast<float>(sum1)},
            -(sum0 + sum1),
            {-sum0, -sum1}};
}

// Writes four groups of which lane g of each vector is group g's.
template <class V>
[[gnu::always_inline]] inline void store_groups(__m128 scale, __m128i sum0, __m128i sum1,
                                                ActivationGroup* groups) {
  const __m128i sum = _mm_add_epi32(sum0, sum1), zero = _mm_setzero_si128();
  __m128 f0 = scale, f1 = _mm_mul_ps(scale, _mm_cvtepi32_ps(sum)),
         f2 = _mm_mul_ps(scale, _mm_cvtepi32_ps(sum0)), f3 = _mm_mul_ps(scale, _mm_cvtepi32_ps(sum1));
  __m128 i0 = _mm_castsi128_ps(_mm_sub_epi32(zero, sum)), i1 = _mm_castsi128_ps(_mm_sub_epi32(zero, sum0)),
         i2 = _mm_castsi128_ps(_mm_sub_epi32(zero, sum1)), i3 = _mm_setzero_ps();
  _MM_TRANSPOSE4_PS(f0, f1, f2, f3);
  _MM_TRANSPOSE4_PS(i0, i1, i2, i3);
  const __m128 floats[4] = {f0, f1, f2, f3}, integers[4] = {i0, i1, i2, i3};
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    _mm_storeu_ps(&groups[g].scale, floats[g]);
    _mm_storeu_ps(reinterpret_cast<float*>(&groups[g].minus_sum), integers[g]);
  }
}

template <class V>
void quantise_four(const float* x, int8_t* codes, ActivationGroup* groups) {
  typename V::I low[4], high[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g)
    low[g] = V::magnitudes(V::load(x + g * contract::kGroup), V::load(x + g * contract::kGroup + 16));
  const __m128i magnitude = V::four_maxima(low);
  // Signed comparisons: a magnitude has no sign bit.
  const __m128i special =
      _mm_or_si128(_mm_cmplt_epi32(magnitude, _mm_set1_epi32(static_cast<int32_t>(kSmallestBits))),
                   _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(static_cast<int32_t>(kInfinityBits - 1))));
  if (_mm_movemask_epi8(special) != 0) {
    for (int g = 0; g < 4; ++g)
      quantise_one<V>(x + g * contract::kGroup, codes + g * contract::kGroup, groups + g);
    return;
  }
  const __m128 amax = _mm_castsi128_ps(magnitude), most = _mm_set1_ps(127.0f);
  alignas(16) float inverse[4];
  _mm_store_ps(inverse, _mm_div_ps(most, amax));
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const auto by = V::set(inverse[g]);
    low[g] = V::round(V::mul(V::load(x + g * contract::kGroup), by));
    high[g] = V::round(V::mul(V::load(x + g * contract::kGroup + 16), by));
    V::store_codes(codes + g * contract::kGroup, low[g], high[g]);
  }
  store_groups<V>(_mm_div_ps(amax, most), V::four_sums(low), V::four_sums(high), groups);
}

template <class V>
void quantise(const float* x, int64_t cols, int8_t* codes, ActivationGroup* groups) {
  int64_t left = cols / contract::kGroup;
  for (; left >= 4; left -= 4, x += 4 * contract::kGroup, codes += 4 * contract::kGroup, groups += 4)
    quantise_four<V>(x, codes, groups);
  for (; left > 0; --left, x += contract::kGroup, codes += contract::kGroup, ++groups)
    quantise_one<V>(x, codes, groups);
}

}  // namespace baton::kernels::cpu::simd
