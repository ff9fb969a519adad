#pragma once

#include <cstdint>

#include "kernels/cpu/simd/constants.h"
#include "kernels/cpu/simd/dots.h"
#include "kernels/cpu/simd/exponential.h"

// Scores of one chunk (lanes = tokens) and the weights made of them.
namespace baton::kernels::cpu::simd {

// Positions of the chunk that a row, or some row of a group, sees, counted from the chunk's start.
struct Seen {
  int begin;  // first position
  int end;    // one past the last

  [[gnu::always_inline]] bool empty() const { return begin >= end; }
  [[gnu::always_inline]] void include(const Seen& other) {
    if (other.empty()) return;
    if (other.begin < begin) begin = other.begin;
    if (other.end > end) end = other.end;
  }
};

// Keys that are read, and the values as large that will be read next: asked for line by line meanwhile, where
// kAsk.
struct KeyTiles {
  const std::byte* const* keys;
  const std::byte* const* values;
};

// scores[pair][16 t ..] of kPairs pairs and kTiles tiles of keys.
template <class V, class Dot, int kPairs, int kTiles, bool kAsk>
[[gnu::always_inline]] inline void score_tiles(const std::byte* const* queries, const KeyTiles& tiles,
                                               int steps, float scale, float* scores) {
  const std::byte *q[kPairs], *keys[kTiles], *values[kTiles];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i) q[i] = queries[i];
#pragma GCC unroll 4
  for (int t = 0; t < kTiles; ++t) {
    keys[t] = tiles.keys[t];
    if (kAsk) values[t] = tiles.values[t];
  }
  typename V::F sum[kPairs][kTiles];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) sum[i][t] = V::zero();
#pragma GCC unroll 2
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (kAsk)
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) __builtin_prefetch(values[t] + s * Dot::kVectorBytes, 0, 2);
    each_step<Dot::kSteps>([&](auto step) __attribute__((always_inline)) {
      decltype(Dot::template load<step>(nullptr)) k[kTiles];
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) k[t] = Dot::template load<step>(keys[t] + s * Dot::kVectorBytes);
#pragma GCC unroll 8
      for (int i = 0; i < kPairs; ++i) {
        const auto x = Dot::template query<step>(q[i] + s * Dot::kQueryBytes);
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) sum[i][t] = Dot::add(sum[i][t], x, k[t]);
      }
    });
  }
  const auto factor = V::set(scale);
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) V::store(scores + i * kScoreStride + t * 16, V::mul(sum[i][t], factor));
}

// Scores of kPairs pairs and any number of tiles, kMost at a time. What is left goes at once: a few tiles
// side by side take as long as the chain of sums of one.
template <class V, class Dot, int kPairs, int kMost, bool kAsk>
void score_row(const std::byte* const* queries, KeyTiles tiles, int count, int steps, float scale,
               float* scores) {
  for (; count >= kMost; count -= kMost, scores += kMost * 16) {
    score_tiles<V, Dot, kPairs, kMost, kAsk>(queries, tiles, steps, scale, scores);
    tiles.keys += kMost;
    tiles.values += kMost;
  }
  if (count == 0) return;
  with_constant<kMost - 1>(
      count, [&](auto n) { score_tiles<V, Dot, kPairs, n, kAsk>(queries, tiles, steps, scale, scores); });
}

// The largest score of the positions `own`.
template <class V>
float largest_score(const float* scores, const Seen& own) {
  const auto lowest = V::set(-__builtin_inff());
  const int first = (own.begin + 15) / 16, last = own.end / 16;
  auto top = lowest, other = lowest;
  if (own.begin % 16 != 0) {
    const int t = own.begin / 16;
    top = V::between(V::load(scores + t * 16), own.begin - t * 16, own.end - t * 16, lowest);
  }
  int t = first;
  for (; t + 2 <= last; t += 2) {
    top = V::max(top, V::load(scores + t * 16));
    other = V::max(other, V::load(scores + t * 16 + 16));
  }
  if (t < last) top = V::max(top, V::load(scores + t * 16));
  if (own.end % 16 != 0 && last >= first)
    other = V::max(other, V::between(V::load(scores + last * 16), 0, own.end - last * 16, lowest));
  return V::largest(V::max(top, other));
}

// Scores of one pair become weights in place (kBrain: rounded to bfloat16, and where there is a dot
// instruction stored so, densely from the row's start); positions of `seen` outside `own` become 0. Returns
// their sum.
template <class V, bool kBrain>
float weigh(float* scores, float max, const Seen& seen, const Seen& own) {
  const auto put = [&](int t, typename V::F p) {
    if constexpr (kBrain && V::kBrainDots) {
      return V::round_weights(reinterpret_cast<uint16_t*>(scores) + t * 16, p);
    } else {
      if constexpr (kBrain) p = V::rounded_brain(p);
      V::store(scores + t * 16, p);
      return p;
    }
  };
  const int first = seen.begin / 16, last = (seen.end + 15) / 16;
  if (own.empty()) {
    for (int t = first; t < last; ++t) put(t, V::zero());
    return 0;
  }
  const auto shift = V::set(max);
  const auto weight = [&](int t) {
    const auto x = V::sub(V::load(scores + t * 16), shift);
    if constexpr (kBrain) return brain_weight<V>(x);
    return exponential<V, true>(x);
  };
  const auto edge = [&](int t) {
    return V::between(weight(t), own.begin - t * 16, own.end - t * 16, V::zero());
  };
  auto sums = V::zero();
  const int whole_end = own.end / 16;
  int t = first;
  for (; t * 16 < own.begin && t < last; ++t) sums = V::add(sums, put(t, edge(t)));
#pragma GCC unroll 4
  for (; t < whole_end; ++t) sums = V::add(sums, put(t, weight(t)));
  for (; t < last; ++t) sums = V::add(sums, put(t, edge(t)));
  return V::sum(sums);
}

}  // namespace baton::kernels::cpu::simd
