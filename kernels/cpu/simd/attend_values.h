#pragma once

#include <cstdint>

#include "kernels/cpu/simd/attend_scores.h"

// Sums of weight times value (lanes = head dimensions).
namespace baton::kernels::cpu::simd {

// Values of a chunk as the loop reads them: a pointer per tile of 16 tokens, and the bytes from one step of
// Dot::kDims tokens to the next. `next`: tiles as large that will be read next, asked for meanwhile where
// kAsk; null where there is none.
struct ValueTiles {
  const std::byte* const* tiles;
  int64_t stride;
  const std::byte* const* next = nullptr;
};

// sums[pair][kVectors vectors from `vector`] = chain of weight times value over the positions `range`, + 0.
template <class V, class Dot, int kPairs, int kVectors, bool kAsk>
[[gnu::always_inline]] inline void add_values(const ValueTiles& values, const Seen& range,
                                              const float* weights, int vector, float* sums, int64_t stride) {
  typename V::F sum[kPairs][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 8
    for (int d = 0; d < kVectors; ++d) sum[i][d] = V::zero();
  const auto add = [&](auto step, const std::byte* p, const std::byte* from) __attribute__((always_inline)) {
    decltype(Dot::template load<step>(nullptr)) v[kVectors];
#pragma GCC unroll 8
    for (int d = 0; d < kVectors; ++d) v[d] = Dot::template load<step>(from + d * Dot::kVectorBytes);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const auto x = Dot::template query<step>(p + i * kScoreStride * 4);
#pragma GCC unroll 8
      for (int d = 0; d < kVectors; ++d) sum[i][d] = Dot::add(sum[i][d], x, v[d]);
    }
  };
  int at = range.begin - range.begin % Dot::kDims;
  const auto* p = reinterpret_cast<const std::byte*>(weights) + at / Dot::kDims * Dot::kQueryBytes;
  while (at < range.end) {
    const int end = range.end < at / 16 * 16 + 16 ? range.end : at / 16 * 16 + 16;
    const std::byte* from =
        values.tiles[at / 16] + at % 16 / Dot::kDims * values.stride + vector * Dot::kVectorBytes;
    const std::byte* asked = from;
    if (kAsk && values.next[at / 16] != nullptr)
      asked = values.next[at / 16] + (from - values.tiles[at / 16]);
    for (; at < end; at += Dot::kDims, p += Dot::kQueryBytes, from += values.stride) {
      if constexpr (kAsk) {
#pragma GCC unroll 8
        for (int d = 0; d < kVectors; ++d) __builtin_prefetch(asked + d * Dot::kVectorBytes, 0, 2);
        asked += values.stride;
      }
      each_step<Dot::kSteps>([&](auto step) __attribute__((always_inline)) { add(step, p, from); });
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 8
    for (int d = 0; d < kVectors; ++d)
      V::store(sums + i * stride + (vector + d) * 16, V::add(sum[i][d], V::zero()));
}

template <class V, class Dot, int kPairs, bool kAsk>
void add_all_values(const ValueTiles& values, const Seen& range, const float* weights, int vectors,
                    float* sums) {
  for (int vector = 0; vector < vectors; vector += V::kValueVectors) {
    const int count = vectors - vector < V::kValueVectors ? vectors - vector : V::kValueVectors;
    with_constant<V::kValueVectors>(count, [&](auto d) {
      add_values<V, Dot, kPairs, d, kAsk>(values, range, weights, vector, sums, vectors * 16);
    });
  }
}

}  // namespace baton::kernels::cpu::simd
