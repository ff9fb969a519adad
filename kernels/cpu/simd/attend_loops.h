#pragma once

#include <cstdint>

#include "kernels/cpu/simd/attend_values.h"

// Attention of one chunk: scores, weights, values, merge. Pairs go in blocks that share what is loaded; a
// chunk's keys (and then its values) stay in the first caches while the blocks of pairs pass.
namespace baton::kernels::cpu::simd {

inline constexpr int kChunkTiles = contract::kChunk / 16;

// What the passes over a chunk share.
template <class V>
struct ChunkWork {
  const AttendTask& task;
  int pairs;
  int padded;                         // head_dim in whole vectors
  Seen seen = {contract::kChunk, 0};  // by any pair
  float* scores;                      // [pairs][kScoreStride]
  float* sums;                        // [pairs][padded]
  float* rest;                        // rounded queries; copied values
  const std::byte* queries[kMaxAttendPairs];
  Seen own[kMaxAttendPairs];
  Seen blocks[kMaxAttendPairs];  // by pair / V::kAttendPairs

  explicit ChunkWork(const AttendTask& t)
      : task(t), pairs(t.rows * t.share), padded(padded_dim(t.head_dim)), scores(t.scratch) {
    sums = scores + pairs * kScoreStride;
    rest = sums + pairs * padded;
    const int start = task.chunk * contract::kChunk;
    for (int row = 0, pair = 0; row < task.rows; ++row) {
      const int begin = task.first[row] > start ? task.first[row] - start : 0;
      const int end = task.last[row] + 1 - start;
      const Seen sees = {begin, end < contract::kChunk ? end : contract::kChunk};
      seen.include(sees);
      for (int head = 0; head < task.share; ++head, ++pair) {
        own[pair] = sees;
        queries[pair] =
            reinterpret_cast<const std::byte*>(task.q + row * task.q_stride + head * task.head_dim);
        Seen& block = blocks[pair / V::kAttendPairs];
        if (pair % V::kAttendPairs == 0) block = {contract::kChunk, 0};
        block.include(sees);
      }
    }
  }

  // Calls f(pair, number of pairs as a constant, what they see) for each block that sees some of the chunk.
  template <class Function>
  [[gnu::always_inline]] void each_block(const Function& f) {
    for (int pair = 0; pair < pairs; pair += V::kAttendPairs) {
      const Seen& block = blocks[pair / V::kAttendPairs];
      if (block.empty()) continue;
      const int left = pairs - pair;
      with_constant<V::kAttendPairs>(left < V::kAttendPairs ? left : V::kAttendPairs,
                                     [&](auto n) { f(pair, n, block); });
    }
  }
  // Calls f(tile) for each tile that some pair sees.
  template <class Function>
  void each_tile(const Function& f) {
    for (int t = seen.begin / 16; t * 16 < seen.end; ++t) f(t);
  }
};

// Few pairs wait for memory: what will be read next is asked for line by line beside what is read, into the
// second cache. All at once, before the first product, asking took as long as reading (Granite Rapids, decode
// of 32 sequences behind 1,024 positions: 1.24 -> 0.97 us a position). Many pairs give the memory time
// without being asked.
template <class V>
bool asks(const ChunkWork<V>& work) {
  return work.pairs <= V::kAttendPairs;
}

// The same for a whole tile at once.
template <class V, class Dot>
void ask_for(const ChunkWork<V>& work, const std::byte* tile) {
  if (tile == nullptr || !asks(work)) return;
  for (int at = 0; at < work.task.head_dim * Dot::kVectorBytes / Dot::kDims; at += 64)
    __builtin_prefetch(tile + at);
}

template <class V, class Dot, bool kAsk>
void score_blocks(ChunkWork<V>& work) {
  const AttendTask& task = work.task;
  work.each_block([&](int pair, auto n, const Seen& seen) {
    const int tile = seen.begin / 16;
    score_row<V, Dot, n, V::kScoreTiles, kAsk>(
        work.queries + pair, {task.kv.keys + tile, task.kv.values + tile}, (seen.end + 15) / 16 - tile,
        task.head_dim / Dot::kDims, task.scale, work.scores + pair * kScoreStride + tile * 16);
  });
}

template <class V, class Dot>
void score_pass(ChunkWork<V>& work) {
  asks(work) ? score_blocks<V, Dot, true>(work) : score_blocks<V, Dot, false>(work);
}

// One tile of values in rows of whole vectors, without what is stored behind its `tokens`.
template <class Dot>
void copy_values(const std::byte* tile, int tokens, int head_dim, std::byte* to) {
  const int64_t row = int64_t{head_dim} * Dot::kVectorBytes / 16;
  const int64_t padded = int64_t{padded_dim(head_dim)} * Dot::kVectorBytes / 16;
  for (int at = 0; at < tokens; at += Dot::kDims, tile += row, to += padded) {
    __builtin_memcpy(to, tile, row);
    __builtin_memset(to + row, 0, padded - row);
    if (at + Dot::kDims > tokens)
      for (int64_t i = 0; i < row; i += 4) to[i + 2] = to[i + 3] = std::byte{0};
  }
}

template <class V, class Dot, bool kAsk>
void value_blocks(ChunkWork<V>& work, const ValueTiles& values) {
  work.each_block([&](int pair, auto n, const Seen& seen) {
    add_all_values<V, Dot, n, kAsk>(values, seen, work.scores + pair * kScoreStride, work.padded / 16,
                                    work.sums + pair * work.padded);
  });
}

template <class V, class Dot>
void value_pass(ChunkWork<V>& work) {
  const AttendTask& task = work.task;
  const std::byte* tiles[kChunkTiles];
  const int64_t step = int64_t{work.padded} * Dot::kVectorBytes / 16;
  auto* copy = reinterpret_cast<std::byte*>(work.rest);
  work.each_tile([&](int t) {
    tiles[t] = task.kv.values[t];
    const int tokens = work.seen.end - t * 16 < 16 ? work.seen.end - t * 16 : 16;
    if (task.head_dim % 16 == 0 && tokens % Dot::kDims == 0) return;
    copy_values<Dot>(tiles[t], tokens, task.head_dim, copy);
    tiles[t] = copy;
    copy += 16 / Dot::kDims * step;
  });
  const ValueTiles values = {tiles, step, task.kv.next_keys};
  asks(work) && task.kv.next_keys != nullptr ? value_blocks<V, Dot, true>(work, values)
                                             : value_blocks<V, Dot, false>(work, values);
}

// A vector of merged sums.
template <class V>
[[gnu::always_inline]] inline void merge_sums(float* total, const float* next, float a, float b,
                                              int vectors) {
  const auto old_factor = V::set(a), new_factor = V::set(b);
  for (int d = 0; d < vectors * 16; d += 16)
    V::store(total + d, V::fma(V::load(total + d), old_factor, V::mul(V::load(next + d), new_factor)));
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
  merge_sums<V>(total_out, next_out, factor[0], factor[1], vectors);
}

template <class V, bool kBrain>
void weigh_all(ChunkWork<V>& work, ChunkState* states) {
  for (int pair = 0; pair < work.pairs; ++pair) {
    states[pair].started = !work.own[pair].empty();
    if (states[pair].started)
      states[pair].max = largest_score<V>(work.scores + pair * kScoreStride, work.own[pair]);
  }
  for (int pair = 0; pair < work.pairs; ++pair)
    states[pair].sum = weigh<V, kBrain>(work.scores + pair * kScoreStride, states[pair].max,
                                        work.blocks[pair / V::kAttendPairs], work.own[pair]);
}

// Eight pairs at a time: their factors are one vector of exponentials.
template <class V>
void merge_all(ChunkWork<V>& work, const ChunkState* states) {
  const AttendTask& task = work.task;
  const int vectors = work.padded / 16;
  for (int first = 0; first < work.pairs; first += 8) {
    const int count = work.pairs - first < 8 ? work.pairs - first : 8;
    alignas(64) float factor[16] = {};
    bool merges = false;
    for (int i = 0; i < count; ++i) {
      const ChunkState &next = states[first + i], &total = task.states[first + i];
      if (!next.started || !total.started) continue;
      merges = true;
      const float max = total.max < next.max ? next.max : total.max;
      factor[i] = total.max - max;
      factor[i + 8] = next.max - max;
    }
    if (merges) V::store(factor, exponential<V>(V::load(factor)));
    for (int i = 0; i < count; ++i) {
      const ChunkState& next = states[first + i];
      if (!next.started) continue;
      ChunkState& total = task.states[first + i];
      float* out = task.out + (first + i) * task.out_stride;
      const float* sums = work.sums + (first + i) * work.padded;
      if (!total.started) {
        total = next;
        for (int d = 0; d < vectors * 16; d += 16) V::store(out + d, V::load(sums + d));
        continue;
      }
      total.max = total.max < next.max ? next.max : total.max;
      total.sum = __builtin_fmaf(total.sum, factor[i], next.sum * factor[i + 8]);
      merge_sums<V>(out, sums, factor[i], factor[i + 8], vectors);
    }
  }
}

template <class V, class Dot>
void attend_floats(const AttendTask& task) {
  ChunkWork<V> work(task);
  if (work.seen.empty()) return;
  ChunkState states[kMaxAttendPairs];
  score_pass<V, Dot>(work);
  weigh_all<V, false>(work, states);
  value_pass<V, Dot>(work);
  merge_all<V>(work, states);
}

// Queries and weights rounded to bfloat16, dots by pairs.
template <class V>
void attend_brain(const AttendTask& task) {
  using Dot = std::conditional_t<V::kBrainDots, BrainDot<V>, SplitBrainDot<V>>;
  ChunkWork<V> work(task);
  if (work.seen.empty()) return;
  for (int pair = 0; pair < work.pairs; ++pair, work.rest += work.padded) {
    const auto* q = reinterpret_cast<const float*>(work.queries[pair]);
    for (int d = 0; d < task.head_dim; d += 16) {
      const auto some = V::load_some(q + d, task.head_dim - d < 16 ? task.head_dim - d : 16);
      if constexpr (V::kBrainDots) {
        V::template narrow<KvType::kBF16>(reinterpret_cast<uint16_t*>(work.rest) + d, some);
      } else {
        V::store(work.rest + d, V::rounded_brain(some));
      }
    }
    work.queries[pair] = reinterpret_cast<const std::byte*>(work.rest);
  }
  ChunkState states[kMaxAttendPairs];
  {
    const typename V::BrainMode mode;
    score_pass<V, Dot>(work);
  }
  weigh_all<V, true>(work, states);
  {
    const typename V::BrainMode mode;
    value_pass<V, Dot>(work);
  }
  merge_all<V>(work, states);
}

}  // namespace baton::kernels::cpu::simd
