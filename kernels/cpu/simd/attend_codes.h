#pragma once

#include <cstdint>

#include "kernels/cpu/simd/attend_loops.h"
#include "kernels/cpu/simd/row_loops.h"

// Attention over int8 KV (contract::attend_codes): integer dots for the scores, float multiply-adds for the
// values.
namespace baton::kernels::cpu::simd {

// The queries of a task as the score loop reads them.
struct CodedQueries {
  const int8_t* codes;            // [pairs][groups * 32]
  const ActivationGroup* groups;  // [pairs][groups]
  int64_t count;                  // groups of a query
};

// scores[pair][16 t ..] of kPairs pairs from `pair` and kTiles tiles of key codes.
template <class V, int kPairs, int kTiles>
[[gnu::always_inline]] inline void score_codes(const AttendTask& task, const CodedQueries& queries, int pair,
                                               const std::byte* const* tiles, float* scores) {
  const int steps = (task.head_dim + 3) / 4;
  const std::byte* keys[kTiles];
#pragma GCC unroll 4
  for (int t = 0; t < kTiles; ++t) keys[t] = tiles[t];
  typename V::F sum[kPairs][kTiles];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; ++t) sum[i][t] = V::zero();
  const int8_t* codes = queries.codes + pair * queries.count * contract::kGroup;
  const ActivationGroup* groups = queries.groups + pair * queries.count;
  for (int first = 0; first < steps; first += 8, ++groups) {
    typename V::I acc[kPairs][kTiles];
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const auto seed = V::template seed<7>(&groups[i * queries.count].minus_sum);
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) acc[i][t] = seed;
    }
    const int end = first + 8 < steps ? first + 8 : steps;
    for (int s = first; s < end; ++s) {
      typename V::I k[kTiles];
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) k[t] = V::load_codes(keys[t] + s * 64);
#pragma GCC unroll 8
      for (int i = 0; i < kPairs; ++i) {
        const auto x = V::set_four(codes + i * queries.count * contract::kGroup + s * 4);
#pragma GCC unroll 4
        for (int t = 0; t < kTiles; ++t) acc[i][t] = V::template dot<true>(acc[i][t], k[t], x);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const auto scale = V::set(groups[i * queries.count].scale);
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) sum[i][t] = V::fma(V::to_float(acc[i][t]), scale, sum[i][t]);
    }
  }
  const auto factor = V::set(task.scale);
#pragma GCC unroll 4
  for (int t = 0; t < kTiles; ++t) {
    const auto scale = V::load(reinterpret_cast<const float*>(keys[t] + code_bytes(task.head_dim)));
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i)
      V::store(scores + i * kScoreStride + t * 16, V::mul(V::mul(sum[i][t], scale), factor));
  }
}

template <class V>
CodedQueries code_queries(ChunkWork<V>& work) {
  const int64_t count = (work.task.head_dim + contract::kGroup - 1) / contract::kGroup,
                cols = count * contract::kGroup;
  auto* groups = reinterpret_cast<ActivationGroup*>(work.rest);
  auto* codes = reinterpret_cast<int8_t*>(groups + work.pairs * count);
  auto* row = reinterpret_cast<float*>(codes + work.pairs * cols);
  const CodedQueries queries = {codes, groups, count};
  for (int pair = 0; pair < work.pairs; ++pair, codes += cols, groups += count) {
    __builtin_memcpy(row, work.queries[pair], work.task.head_dim * sizeof(float));
    for (int64_t d = work.task.head_dim; d < cols; ++d) row[d] = 0;
    quantise<V>(row, cols, codes, groups);
  }
  work.rest = row;
  return queries;
}

template <class V>
void score_codes_pass(ChunkWork<V>& work, const CodedQueries& queries) {
  const AttendTask& task = work.task;
  constexpr int kTiles = V::kScoreTiles / 2;
  work.each_tile([&](int t) { ask_for<V, CodeDot<V>>(work, task.kv.values[t]); });
  work.each_block([&](int pair, auto n, const Seen& seen) {
    int tile = seen.begin / 16;
    const int end = (seen.end + 15) / 16;
    for (; tile + kTiles <= end; tile += kTiles)
      score_codes<V, n, kTiles>(task, queries, pair, task.kv.keys + tile,
                                work.scores + pair * kScoreStride + tile * 16);
    for (; tile < end; ++tile)
      score_codes<V, n, 1>(task, queries, pair, task.kv.keys + tile,
                           work.scores + pair * kScoreStride + tile * 16);
  });
}

// The values' scales go into the weights, after their sum was taken.
template <class V>
void scale_weights(ChunkWork<V>& work) {
  const int64_t scales = code_bytes(work.task.head_dim);
  for (int pair = 0; pair < work.pairs; ++pair) {
    const Seen& own = work.own[pair];
    float* weights = work.scores + pair * kScoreStride;
    for (int t = own.begin / 16; t * 16 < own.end; ++t) {
      const auto scale = V::load(reinterpret_cast<const float*>(work.task.kv.values[t] + scales));
      const auto scaled = V::mul(V::load(weights + t * 16), scale);
      V::store(weights + t * 16, V::between(scaled, own.begin - t * 16, own.end - t * 16, V::zero()));
    }
  }
}

template <class V>
void attend_codes(const AttendTask& task) {
  ChunkWork<V> work(task);
  if (work.seen.empty()) return;
  const CodedQueries queries = code_queries<V>(work);
  ChunkState states[kMaxAttendPairs];
  score_codes_pass<V>(work, queries);
  weigh_all<V, false>(work, states);
  scale_weights<V>(work);
  value_pass<V, CodeDot<V>>(work);
  merge_all<V>(work, states);
}

}  // namespace baton::kernels::cpu::simd
