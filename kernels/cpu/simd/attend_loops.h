#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/constants.h"
#include "kernels/cpu/simd/exponential.h"

// Attention of one chunk: scores (lanes = tokens), weights, values (lanes = head_dim), merge.
namespace baton::kernels::cpu::simd {

inline constexpr int kChunkTiles = contract::kChunk / 16;

// Positions of the chunk that some pair of the task sees, counted from the chunk's start.
struct Seen {
  int begin;  // first position
  int end;    // one past the last
};

inline constexpr int kElementBytes[] = {4, 2, 2};  // by KvType

// scores[pair][16 t ..] for kPairs pairs and kTiles tiles.
template <class V, KvType kType, int kPairs, int kTiles>
[[gnu::always_inline]] inline void score_tiles(const AttendTask& task, int pair, int tile, float* scores) {
  constexpr int kStep = 16 * kElementBytes[static_cast<int>(kType)];
  const float* q[kPairs];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
    q[i] = task.q + (pair + i) / task.share * task.q_stride + (pair + i) % task.share * task.head_dim;
  const std::byte* keys[kTiles];
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t) keys[t] = task.kv.keys[tile + t];
  typename V::F sum[kPairs][kTiles];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) sum[i][t] = V::zero();
  for (int d = 0; d < task.head_dim; ++d) {
    typename V::F k[kTiles];
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) k[t] = V::template widen<kType>(keys[t] + d * kStep);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const auto x = V::set(q[i][d]);
#pragma GCC unroll 2
      for (int t = 0; t < kTiles; ++t) sum[i][t] = V::fma(x, k[t], sum[i][t]);
    }
  }
  const auto scale = V::set(task.scale);
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t)
      V::store(scores + (pair + i) * contract::kChunk + (tile + t) * 16, V::mul(sum[i][t], scale));
}

template <class V, KvType kType>
void all_scores(const AttendTask& task, const Seen& seen, float* scores) {
  const int pairs = task.rows * task.share;
  const int last = (seen.end + 15) / 16;
  for (int pair = 0; pair < pairs; pair += V::kAttendPairs) {
    const int count = pairs - pair < V::kAttendPairs ? pairs - pair : V::kAttendPairs;
    with_constant<V::kAttendPairs>(count, [&](auto n) {
      int tile = seen.begin / 16;
      for (; tile + 2 <= last; tile += 2) score_tiles<V, kType, n, 2>(task, pair, tile, scores);
      if (tile < last) score_tiles<V, kType, n, 1>(task, pair, tile, scores);
    });
  }
}

// Scores of one pair become weights in place; positions of `seen` outside `own` become 0. Returns the chunk's
// state.
template <class V>
ChunkState weigh(float* scores, const Seen& seen, const Seen& own) {
  ChunkState state;
  const int first = seen.begin / 16, last = (seen.end + 15) / 16;
  if (own.begin >= own.end) {
    for (int t = first; t < last; ++t) V::store(scores + t * 16, V::zero());
    return state;
  }
  const auto lowest = V::set(-__builtin_inff());
  auto top = lowest;
  for (int t = own.begin / 16; t < (own.end + 15) / 16; ++t)
    top = V::max(top, V::between(V::load(scores + t * 16), own.begin - t * 16, own.end - t * 16, lowest));
  state.max = V::largest(top);
  state.started = true;
  const auto shift = V::set(state.max);
  auto sums = V::zero();
  for (int t = first; t < last; ++t) {
    const auto p = V::between(exponential<V>(V::sub(V::load(scores + t * 16), shift)), own.begin - t * 16,
                              own.end - t * 16, V::zero());
    sums = V::add(sums, p);
    V::store(scores + t * 16, p);
  }
  state.sum = V::sum(sums);
  return state;
}

// Values of the chunk as the value loop reads them: a pointer per tile and the elements from token to token.
struct ValueRows {
  const std::byte* const* tiles;
  int64_t stride;
};

// o[pair][dims of kDims vectors] = sum over seen positions of weight * value.
template <class V, KvType kType, int kPairs, int kDims>
[[gnu::always_inline]] inline void add_values(const ValueRows& values, const Seen& seen, const float* weights,
                                              int vector, float* out, int64_t out_stride) {
  constexpr int kBytes = kElementBytes[static_cast<int>(kType)];
  typename V::F sum[kPairs][kDims];
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 8
    for (int d = 0; d < kDims; ++d) sum[i][d] = V::zero();
  for (int j = seen.begin; j < seen.end; ++j) {
    const std::byte* row = values.tiles[j / 16] + (j % 16 * values.stride + vector * 16) * kBytes;
    typename V::F v[kDims];
#pragma GCC unroll 8
    for (int d = 0; d < kDims; ++d) v[d] = V::template widen<kType>(row + d * 16 * kBytes);
#pragma GCC unroll 8
    for (int i = 0; i < kPairs; ++i) {
      const auto p = V::set(weights[i * contract::kChunk + j]);
#pragma GCC unroll 8
      for (int d = 0; d < kDims; ++d) sum[i][d] = V::fma(p, v[d], sum[i][d]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPairs; ++i)
#pragma GCC unroll 8
    for (int d = 0; d < kDims; ++d)
      V::store(out + i * out_stride + (vector + d) * 16, V::add(sum[i][d], V::zero()));
}

template <class V, KvType kType>
void all_values(const AttendTask& task, const ValueRows& values, const Seen& seen, const float* weights,
                float* out) {
  const int pairs = task.rows * task.share;
  const int vectors = padded_dim(task.head_dim) / 16;
  for (int pair = 0; pair < pairs; pair += V::kValuePairs) {
    const int count = pairs - pair < V::kValuePairs ? pairs - pair : V::kValuePairs;
    with_constant<V::kValuePairs>(count, [&](auto n) {
      for (int vector = 0; vector < vectors; vector += V::kValueDims) {
        const int dims = vectors - vector < V::kValueDims ? vectors - vector : V::kValueDims;
        with_constant<V::kValueDims>(dims, [&](auto d) {
          add_values<V, kType, n, d>(values, seen, weights + pair * contract::kChunk, vector,
                                     out + pair * task.out_stride, task.out_stride);
        });
      }
    });
  }
}

// Head sizes that do not fill vectors: the chunk's values are opened into padded floats first.
template <class V, KvType kType>
void open_values(const AttendTask& task, const Seen& seen, float* opened) {
  constexpr int kBytes = kElementBytes[static_cast<int>(kType)];
  const int padded = padded_dim(task.head_dim);
  for (int j = seen.begin; j < seen.end; ++j) {
    const std::byte* row = task.kv.values[j / 16] + j % 16 * task.head_dim * kBytes;
    for (int d = 0; d < task.head_dim; d += 16) {
      const int count = task.head_dim - d < 16 ? task.head_dim - d : 16;
      V::store(opened + j * padded + d, V::template widen_some<kType>(row + d * kBytes, count));
    }
  }
}

template <class V>
void merge_attend(ChunkState& total, float* total_out, const ChunkState& next, const float* next_out,
                  int head_dim) {
  const int vectors = padded_dim(head_dim) / 16;
  if (!total.started) {
    total = next;
    for (int d = 0; d < vectors; ++d) V::store(total_out + d * 16, V::load(next_out + d * 16));
    return;
  }
  const float max = total.max < next.max ? next.max : total.max;
  alignas(64) float factor[16];
  V::store(factor, exponential<V>(V::two(total.max - max, next.max - max)));
  total.max = max;
  total.sum = __builtin_fmaf(total.sum, factor[0], next.sum * factor[1]);
  const auto a = V::set(factor[0]), b = V::set(factor[1]);
  for (int d = 0; d < vectors; ++d) {
    const auto merged = V::fma(V::load(total_out + d * 16), a, V::mul(V::load(next_out + d * 16), b));
    V::store(total_out + d * 16, merged);
  }
}

// Positions of the chunk that pairs of row `row` see.
inline __attribute__((always_inline)) Seen seen_by(const AttendTask& task, int row) {
  const int start = task.chunk * contract::kChunk;
  const int begin = task.first[row] > start ? task.first[row] - start : 0;
  const int end = task.last[row] + 1 - start;
  return {begin, end < contract::kChunk ? end : contract::kChunk};
}

template <class V, KvType kType>
void attend_typed(const AttendTask& task) {
  Seen seen = {contract::kChunk, 0};
  for (int row = 0; row < task.rows; ++row) {
    const Seen own = seen_by(task, row);
    if (own.begin >= own.end) continue;
    if (own.begin < seen.begin) seen.begin = own.begin;
    if (own.end > seen.end) seen.end = own.end;
  }
  if (seen.begin >= seen.end) return;
  const int pairs = task.rows * task.share;
  float* scores = task.scratch;
  float* out = scores + pairs * contract::kChunk;
  all_scores<V, kType>(task, seen, scores);
  ChunkState states[kMaxAttendPairs];
  for (int pair = 0; pair < pairs; ++pair)
    states[pair] = weigh<V>(scores + pair * contract::kChunk, seen, seen_by(task, pair / task.share));
  if (task.head_dim % 16 == 0) {
    all_values<V, kType>(task, {task.kv.values, task.head_dim}, seen, scores, out);
  } else {
    const int padded = padded_dim(task.head_dim);
    float* opened = out + pairs * padded;
    open_values<V, kType>(task, seen, opened);
    const std::byte* tiles[kChunkTiles];
    for (int t = 0; t < kChunkTiles; ++t)
      tiles[t] = reinterpret_cast<const std::byte*>(opened + t * 16 * padded);
    all_values<V, KvType::kF32>(task, {tiles, padded}, seen, scores, out);
  }
  for (int pair = 0; pair < pairs; ++pair)
    if (states[pair].started)
      merge_attend<V>(task.states[pair], task.out + pair * task.out_stride, states[pair],
                      out + pair * task.out_stride, task.head_dim);
}

template <class V>
void attend(const AttendTask& task) {
  switch (task.kv.type) {
    case KvType::kF32:
      return attend_typed<V, KvType::kF32>(task);
    case KvType::kBF16:
      return attend_typed<V, KvType::kBF16>(task);
    case KvType::kF16:
      return attend_typed<V, KvType::kF16>(task);
  }
}

template <class V>
void finish_attend(const ChunkState& state, const float* o, int head_dim, float* out) {
  const auto inverse = V::set(1.0f / state.sum);
  for (int d = 0; d < head_dim; d += 16) {
    const int count = head_dim - d < 16 ? head_dim - d : 16;
    V::store_some(out + d, V::mul(V::load(o + d), inverse), count);
  }
}

}  // namespace baton::kernels::cpu::simd
