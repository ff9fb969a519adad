#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

// How stored keys and values are multiplied. A dot reads a stream of vectors of 16 lanes; each holds kDims
// consecutive elements a lane (head dimensions of a key, tokens of a value) and goes with one query word of
// kQueryBytes. It is taken in kSteps steps of one vector operation each.
namespace baton::kernels::cpu::simd {

// float32 chain: y = fma(x, k, y).
template <class V>
struct FloatDot {
  static constexpr int kVectorBytes = 64, kQueryBytes = 4, kDims = 1, kSteps = 1;
  template <int kStep>
  static typename V::F load(const std::byte* p) {
    return V::load(reinterpret_cast<const float*>(p));
  }
  template <int kStep>
  static typename V::F query(const std::byte* p) {
    return V::set(*reinterpret_cast<const float*>(p));
  }
  static constexpr int64_t row_bytes(int64_t queries) { return queries * 4; }
  static typename V::F add(typename V::F sum, typename V::F x, typename V::F k) { return V::fma(x, k, sum); }
};

// The same over stored float16.
template <class V>
struct HalfDot : FloatDot<V> {
  static constexpr int kVectorBytes = 32;
  template <int kStep>
  static typename V::F load(const std::byte* p) {
    return V::load_half(p);
  }
};

// The same over stored bfloat16, in pairs: the first element of a pair is the word's low half.
template <class V>
struct WidenedDot : FloatDot<V> {
  static constexpr int kQueryBytes = 8, kDims = 2, kSteps = 2;
  template <int kStep>
  static typename V::F load(const std::byte* p) {
    return kStep == 0 ? V::low_brain(V::load_codes(p)) : V::high_brain(V::load_codes(p));
  }
  template <int kStep>
  static typename V::F query(const std::byte* p) {
    return V::set(reinterpret_cast<const float*>(p)[kStep]);
  }
};

// The same over int8 codes: the scale is in the query.
template <class V>
struct CodeDot : FloatDot<V> {
  static constexpr int kVectorBytes = 16;
  template <int kStep>
  static typename V::F load(const std::byte* p) {
    return V::widen_codes(p);
  }
};

// contract::brain_dot by its definition: the odd elements first. The queries are bfloat16 numbers as floats.
template <class V>
struct SplitBrainDot : WidenedDot<V> {
  template <int kStep>
  static typename V::F load(const std::byte* p) {
    return WidenedDot<V>::template load<1 - kStep>(p);
  }
  template <int kStep>
  static typename V::F query(const std::byte* p) {
    return WidenedDot<V>::template query<1 - kStep>(p);
  }
};

// contract::brain_dot over stored bfloat16 pairs; the queries are bfloat16 pairs too.
template <class V>
struct BrainDot {
  static constexpr int kVectorBytes = 64, kQueryBytes = 4, kDims = 2, kSteps = 1;
  template <int kStep>
  static typename V::I load(const std::byte* p) {
    return V::load_codes(p);
  }
  template <int kStep>
  static typename V::I query(const std::byte* p) {
    return V::set_four(reinterpret_cast<const int8_t*>(p));
  }
  static constexpr int64_t row_bytes(int64_t queries) { return brain_stride(queries) * 2; }
  static typename V::F add(typename V::F sum, typename V::I x, typename V::I k) {
    return V::brain_dot(sum, k, x);
  }
};

}  // namespace baton::kernels::cpu::simd
