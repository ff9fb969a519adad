#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/avx2/across.h"
#include "kernels/cpu/simd/flush_denormals.h"

namespace baton::kernels::cpu::avx512 {

struct NoMode {
  NoMode() {}
};

// Sixteen lanes in one 512-bit register. kVnni: integer dots by vpdpbusd, else by 16-bit products. kBrain:
// bf16 dots by vdpbf16ps, which multiplies and adds the high halves, then the low ones, and takes denormals
// for zeros; else by that definition.
template <bool kVnni, bool kBrain = false>
struct Lanes {
  using F = __m512;
  using I = __m512i;
  template <KvType kType>
  using Stored = std::conditional_t<kType == KvType::kF32, float, uint16_t>;

  static constexpr int kTileRows = 6;
  static constexpr int kTilePanels = 2;
  static constexpr int kFloatStreams = 2;
  static constexpr int kFloatPanels = 4;
  static constexpr int kAttendPairs = 6;
  static constexpr int kScoreTiles = 4;
  static constexpr int kValueVectors = 4;
  static constexpr int kPrefetchBytes = 5120;
  static constexpr int kFloatPrefetchBytes = 16384;
  static constexpr int64_t kActivationBytes = 256 * 1024;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static F zero() { return _mm512_setzero_ps(); }
  static F zero_minus() { return _mm512_set1_ps(-0.0f); }
  static F set(float v) { return _mm512_set1_ps(v); }
  static F two(float a, float b) { return _mm512_mask_mov_ps(_mm512_set1_ps(b), 1, _mm512_set1_ps(a)); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store_some(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F load_half(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F brain(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static F load_brain(const std::byte* p) {
    return brain(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F widen_codes(const std::byte* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
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
    const __m256i bits = _mm256_maskz_loadu_epi16(first(n), p);
    if constexpr (kType == KvType::kF16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  template <KvType kType>
  static void narrow(Stored<kType>* out, F v) {
    if constexpr (kType == KvType::kF32) {
      store(out, v);
    } else {
      const __m256i bits =
          kType == KvType::kF16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT) : to_brain(v);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bits);
    }
  }
  // Nearest even by integer arithmetic (the bf16 instruction would flush denormals).
  static __m256i to_brain(F v) {
    const I bits = _mm512_castps_si512(v);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const I rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const I quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(
        _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet));
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static float root(float v) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(v))); }
  static F zero_below(F x, F bound, F v) {
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), _mm512_setzero_ps());
  }
  // Lanes begin <= l < end keep v, the others get `outside`.
  static F between(F v, int begin, int end, F outside) {
    const uint32_t below_end = end >= 16 ? 0xffffu : end <= 0 ? 0u : (1u << end) - 1u;
    const uint32_t below_begin = begin >= 16 ? 0xffffu : begin <= 0 ? 0u : (1u << begin) - 1u;
    return _mm512_mask_mov_ps(outside, static_cast<__mmask16>(below_end & ~below_begin), v);
  }
  static float sum(F v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F v) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  static I as_int(F v) { return _mm512_castps_si512(v); }
  static F as_float(I v) { return _mm512_castsi512_ps(v); }
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static I round(F v) { return _mm512_cvtps_epi32(v); }
  static I set_i(int32_t v) { return _mm512_set1_epi32(v); }
  static I sub_i(I a, I b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static I shift_left(I v) {
    return _mm512_slli_epi32(v, kBits);
  }
  static int32_t sum_i(I v) { return _mm512_reduce_add_epi32(v); }
  static uint32_t largest_magnitude(F a, F b) {
    const I mask = _mm512_set1_epi32(0x7fffffff);
    return static_cast<uint32_t>(_mm512_reduce_max_epi32(
        _mm512_max_epi32(_mm512_and_si512(as_int(a), mask), _mm512_and_si512(as_int(b), mask))));
  }
  // The larger magnitude of each pair, as the bits of a float.
  static I magnitudes(F a, F b) {
    const I mask = _mm512_set1_epi32(0x7fffffff);
    return _mm512_max_epi32(_mm512_and_si512(as_int(a), mask), _mm512_and_si512(as_int(b), mask));
  }
  // Lane g = the largest (the sum) of v[g].
  static __m128i four_maxima(const I (&v)[4]) {
    return across_four(v, [](I a, I b) { return _mm512_max_epi32(a, b); }, avx2::Larger());
  }
  static __m128i four_sums(const I (&v)[4]) {
    return across_four(v, [](I a, I b) { return _mm512_add_epi32(a, b); }, avx2::Sum());
  }
  template <class Wide, class Op>
  [[gnu::always_inline]] static __m128i across_four(const I (&v)[4], const Wide& wide, const Op& op) {
    const I ab = wide(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    const I cd = wide(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    const I all = wide(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = op(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return op(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  }
  static void store_codes(int8_t* p, I low, I high) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16), _mm512_cvtepi32_epi8(high));
  }

  // Words of two bfloat16: the first is the low half.
  static F low_brain(I v) { return as_float(_mm512_slli_epi32(v, 16)); }
  static F high_brain(I v) { return as_float(_mm512_and_si512(v, _mm512_set1_epi32(-65536))); }
  static I low_halves(I v) { return _mm512_and_si512(v, _mm512_set1_epi32(65535)); }
  static void settle(F& v) { asm volatile("" : "+v"(v)); }
  // contract::brain_dot; inside a BrainMode.
  using BrainMode = std::conditional_t<kBrain, NoMode, simd::FlushDenormals>;
  static F brain_dot(F sum, I a, I b) {
    if constexpr (kBrain) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    return fma(low_brain(a), low_brain(b), fma(high_brain(a), high_brain(b), sum));
  }
  static constexpr bool kBrainDots = kBrain;  // else operands are unpacked once, not for each dot
  // Rounded to bfloat16, as floats.
  static F rounded_brain(F v) { return brain(to_brain(v)); }
  // Rounds weights of attention (zero or above 2^-126) and returns them as floats again.
  static F round_weights(uint16_t* out, F v)
    requires kBrain
  {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(v));
    return load_brain(reinterpret_cast<const std::byte*>(out));
  }

  // Weight codes: 16 outputs x 4 columns. Activations: the same 4 codes in every lane.
  static I load_codes(const std::byte* p) { return _mm512_loadu_si512(p); }
  // table[index] of each byte; indices are below 16.
  static I look_up(const uint8_t* table, I index) {
    const __m128i entries = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), index);
  }
  // 16 signed bytes, widened.
  static I load_bytes(const std::byte* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I low_nibbles(I v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static I high_nibbles(I v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
  static I set_four(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  template <int kShift>
  static I seed(const int32_t* minus_sum) {
    if constexpr (kShift < 0) return _mm512_setzero_si512();
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus_sum), kShift < 0 ? 0 : kShift);
  }
  // acc + (unsigned codes w) . (signed codes x), exact. kWide: codes above 127, biased by 128.
  template <bool kWide>
  static I dot(I acc, I w, I x) {
    if constexpr (kVnni) {
      return _mm512_dpbusd_epi32(acc, w, x);
    } else {
      return dot16<kWide>(acc, w, x);
    }
  }

 private:
  // Pairs of 8-bit products must fit 16 bits: 2 * 127 * 127 does; wide codes are split into their low 7 bits
  // and bit 7.
  template <bool kWide>
  static I dot16(I acc, I w, I x) {
    const I ones = _mm512_set1_epi16(1);
    if constexpr (kWide) {
      const I low = _mm512_and_si512(w, _mm512_set1_epi8(127));
      const I high = _mm512_and_si512(_mm512_srli_epi16(w, 7), _mm512_set1_epi8(1));
      const I bit = _mm512_slli_epi32(_mm512_madd_epi16(_mm512_maddubs_epi16(high, x), ones), 7);
      acc = _mm512_add_epi32(acc, bit);
      return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(low, x), ones));
    } else {
      return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), ones));
    }
  }
};

}  // namespace baton::kernels::cpu::avx512
