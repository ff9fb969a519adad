#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/avx2/across.h"
#include "kernels/cpu/simd/flush_denormals.h"

namespace baton::kernels::cpu::avx2 {

// Integer dots of unsigned codes up to 127 with signed ones, by 16-bit products: 2 * 127 * 127 fits, and
// 2 * 128 * 127 (|w| times the signed x) too.
struct ProductDots {
  static constexpr bool kAllCodes = false;  // codes above 127 must be made signed first
  static __m256i dot(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
  }
};

// Sixteen lanes in two 256-bit registers: lanes 0..7 in low, 8..15 in high.
template <class Dots>
struct Lanes {
  struct F {
    __m256 low, high;
  };
  struct I {
    __m256i low, high;
  };
  template <KvType kType>
  using Stored = std::conditional_t<kType == KvType::kF32, float, uint16_t>;

  static constexpr int kTileRows = 3;
  static constexpr int kTilePanels = 1;
  static constexpr int kFloatStreams = 2;
  static constexpr int kFloatPanels = 1;
  static constexpr int kAttendPairs = 2;
  static constexpr int kScoreTiles = 2;
  static constexpr int kValueVectors = 2;
  static constexpr int kPrefetchBytes = 1024;
  static constexpr int kFloatPrefetchBytes = 1024;
  static constexpr int64_t kActivationBytes = 256 * 1024;

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F zero_minus() { return set(-0.0f); }
  static F set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static F two(float a, float b) {
    return {_mm256_blend_ps(_mm256_set1_ps(b), _mm256_set1_ps(a), 1), _mm256_set1_ps(b)};
  }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
  }
  // All ones in lanes below n.
  static I first(int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane)};
  }
  static F load_some(const float* p, int n) {
    if (n == 16) return load(p);
    const I mask = first(n);
    return {_mm256_maskload_ps(p, mask.low),
            n > 8 ? _mm256_maskload_ps(p + 8, mask.high) : _mm256_setzero_ps()};
  }
  static void store_some(float* p, F v, int n) {
    if (n == 16) return store(p, v);
    const I mask = first(n);
    _mm256_maskstore_ps(p, mask.low, v.low);
    if (n > 8) _mm256_maskstore_ps(p + 8, mask.high, v.high);
  }
  static __m128i load128(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static F load_half(const std::byte* p) {
    return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 16))};
  }
  static __m256 brain(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static F load_brain(const std::byte* p) { return {brain(load128(p)), brain(load128(p + 16))}; }
  static F widen_codes(const std::byte* p) {
    const __m128i bytes = load128(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  template <KvType kType>
  static F widen(const std::byte* p) {
    if constexpr (kType == KvType::kF32) return load(reinterpret_cast<const float*>(p));
    if constexpr (kType == KvType::kF16) return load_half(p);
    return load_brain(p);
  }
  template <KvType kType>
  static F widen_some(const std::byte* p, int n) {
    if constexpr (kType == KvType::kF32) return load_some(reinterpret_cast<const float*>(p), n);
    std::byte whole[32] = {};
    for (int i = 0; i < 2 * n; ++i) whole[i] = p[i];
    return widen<kType>(whole);
  }
  template <KvType kType>
  static void narrow(Stored<kType>* out, F v) {
    if constexpr (kType == KvType::kF32) {
      store(out, v);
    } else {
      auto* to = reinterpret_cast<__m128i*>(out);
      if constexpr (kType == KvType::kF16) {
        _mm_storeu_si128(to, _mm256_cvtps_ph(v.low, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(to + 1, _mm256_cvtps_ph(v.high, _MM_FROUND_TO_NEAREST_INT));
      } else {
        _mm_storeu_si128(to, to_brain(v.low));
        _mm_storeu_si128(to + 1, to_brain(v.high));
      }
    }
  }
  static __m128i to_brain(__m256 v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i top = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i out = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
  }

  static F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F fnma(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  static F max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static float root(float v) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v))); }
  static F zero_below(F x, F bound, F v) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.low, bound.low, _CMP_LT_OQ), v.low),
            _mm256_andnot_ps(_mm256_cmp_ps(x.high, bound.high, _CMP_LT_OQ), v.high)};
  }
  static __m256 blend(__m256 without, __m256 with, __m256i mask) {
    return _mm256_blendv_ps(without, with, _mm256_castsi256_ps(mask));
  }
  // Lanes begin <= l < end keep v, the others get `outside`.
  static F between(F v, int begin, int end, F outside) {
    const I below_end = first(end), below_begin = first(begin);
    return {blend(outside.low, v.low, _mm256_andnot_si256(below_begin.low, below_end.low)),
            blend(outside.high, v.high, _mm256_andnot_si256(below_begin.high, below_end.high))};
  }
  static float sum(F v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F v) {
    const __m256 eight = _mm256_max_ps(v.low, v.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static I as_int(F v) { return {_mm256_castps_si256(v.low), _mm256_castps_si256(v.high)}; }
  static F as_float(I v) { return {_mm256_castsi256_ps(v.low), _mm256_castsi256_ps(v.high)}; }
  static F to_float(I v) { return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)}; }
  static I round(F v) { return {_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)}; }
  static I set_i(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static I sub_i(I a, I b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
  template <int kBits>
  static I shift_left(I v) {
    return {_mm256_slli_epi32(v.low, kBits), _mm256_slli_epi32(v.high, kBits)};
  }
  static int32_t sum_i(I v) {
    const __m256i eight = _mm256_add_epi32(v.low, v.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
  }
  static uint32_t largest_magnitude(F a, F b) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    const auto magnitude = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), mask); };
    const __m256i eight = _mm256_max_epi32(_mm256_max_epi32(magnitude(a.low), magnitude(a.high)),
                                           _mm256_max_epi32(magnitude(b.low), magnitude(b.high)));
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1))));
  }
  // The larger magnitude of each pair, as the bits of a float.
  static I magnitudes(F a, F b) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    const auto larger = [&](__m256 u, __m256 v) {
      return _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(u), mask),
                              _mm256_and_si256(_mm256_castps_si256(v), mask));
    };
    return {larger(a.low, b.low), larger(a.high, b.high)};
  }
  // Lane g = the largest (the sum) of v[g].
  static __m128i four_maxima(const I (&v)[4]) { return across_four(v, Larger()); }
  static __m128i four_sums(const I (&v)[4]) { return across_four(v, Sum()); }
  template <class Op>
  [[gnu::always_inline]] static __m128i across_four(const I (&v)[4], const Op& op) {
    return across(op(v[0].low, v[0].high), op(v[1].low, v[1].high), op(v[2].low, v[2].high),
                  op(v[3].low, v[3].high), op);
  }
  static __m128i codes_of(I v) {
    const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(v.low), _mm256_extracti128_si256(v.low, 1));
    const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(v.high), _mm256_extracti128_si256(v.high, 1));
    return _mm_packs_epi16(low, high);
  }
  static void store_codes(int8_t* p, I low, I high) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes_of(low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), codes_of(high));
  }

  // Words of two bfloat16: the first is the low half.
  static F low_brain(I v) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(v.low, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(v.high, 16))};
  }
  static F high_brain(I v) {
    const __m256i mask = _mm256_set1_epi32(-65536);
    return as_float({_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)});
  }
  static I low_halves(I v) {
    const __m256i mask = _mm256_set1_epi32(65535);
    return {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
  }
  static void settle(F& v) { asm volatile("" : "+v"(v.low), "+v"(v.high)); }
  // contract::brain_dot; inside a BrainMode.
  using BrainMode = simd::FlushDenormals;
  static F brain_dot(F sum, I a, I b) {
    return fma(low_brain(a), low_brain(b), fma(high_brain(a), high_brain(b), sum));
  }
  static constexpr bool kBrainDots = false;  // no instruction: operands are unpacked once, not for each dot
  // Rounded to bfloat16, as floats.
  static F rounded_brain(F v) { return {brain(to_brain(v.low)), brain(to_brain(v.high))}; }

  // Weight codes: 16 outputs x 4 columns. Activations: the same 4 codes in every lane.
  static I load_codes(const std::byte* p) {
    const auto* v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }
  // table[index] of each byte; indices are below 16.
  static I look_up(const uint8_t* table, I index) {
    const __m256i entries =
        _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, index.low), _mm256_shuffle_epi8(entries, index.high)};
  }
  // 16 signed bytes, widened.
  static I load_bytes(const std::byte* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
  }
  static I low_nibbles(I v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.low, mask), _mm256_and_si256(v.high, mask)};
  }
  static I high_nibbles(I v) {
    return low_nibbles({_mm256_srli_epi16(v.low, 4), _mm256_srli_epi16(v.high, 4)});
  }
  static I set_four(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return set_i(four);
  }
  // Where dots do not take all codes, wide ones (biased by 128, shift 7) are made signed in dot(), so their
  // sum starts at zero.
  template <int kShift>
  static I seed(const int32_t* minus_sum) {
    if constexpr (kShift < 0 || (kShift == 7 && !Dots::kAllCodes))
      return {_mm256_setzero_si256(), _mm256_setzero_si256()};
    return shift_left < kShift<0 ? 0 : kShift>(set_i(*minus_sum));
  }
  // acc + w . x, exact. kWide: w is the code + 128; else the unsigned code, at most 127.
  template <bool kWide>
  static I dot(I acc, I w, I x) {
    return {dot_half<kWide>(acc.low, w.low, x.low), dot_half<kWide>(acc.high, w.high, x.high)};
  }

 private:
  template <bool kWide>
  static __m256i dot_half(__m256i acc, __m256i w, __m256i x) {
    if constexpr (kWide && !Dots::kAllCodes) {
      const __m256i code = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
      x = _mm256_sign_epi8(x, code);
      w = _mm256_abs_epi8(code);
    }
    return Dots::dot(acc, w, x);
  }
};

}  // namespace baton::kernels::cpu::avx2
