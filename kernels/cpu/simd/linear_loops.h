#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/constants.h"
#include "kernels/cpu/simd/dots.h"
#include "kernels/cpu/simd/quantised_tile.h"

// Matrix times rows, in tiles of kRows rows x kPanels panels of 16 outputs held in registers. The tile's size
// changes what is loaded how often, never the order of a sum.
namespace baton::kernels::cpu::simd {

inline constexpr int kAheadLines = 8;  // of float weights that are asked for together
inline constexpr int kNarrowRows = 2;  // up to here the panels are read as a stream from memory

// What a tile asks for together, of each panel.
template <DType kType>
inline constexpr int kLinesOf =
    panel_format(kType).code_bits == 0 ? kAheadLines : panel_format(kType).slab_bytes() / 64;

// One K shard of weights that are multiplied as they are stored; `x` is the first row of activations, in the
// dot's query words.
template <class V, class Dot, int kRows, int kPanels>
[[gnu::always_inline]] inline void dot_shard(const TileSource<kPanels>& from, const std::byte* x,
                                             int64_t first, int64_t count,
                                             TileSums<V, kRows, kPanels>& sums) {
  constexpr int kAheadSteps = kAheadLines * 64 / Dot::kVectorBytes;
  const int64_t row_bytes = Dot::row_bytes(from.cols);
  sums.clear();
  const auto add = [&](int64_t s, auto step) __attribute__((always_inline)) {
    decltype(Dot::template load<step>(nullptr)) w[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) w[p] = Dot::template load<step>(from.panel[p] + s * Dot::kVectorBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto q = Dot::template query<step>(x + r * row_bytes + s * Dot::kQueryBytes);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sums.y[r][p] = Dot::add(sums.y[r][p], q, w[p]);
    }
  };
  const int64_t end = (first + count) / Dot::kDims;
#pragma GCC unroll 4
  for (int64_t s = first / Dot::kDims; s < end; ++s) {
    if (s % kAheadSteps == 0) {
      const std::byte* at[kPanels];
      for (int p = 0; p < kPanels; ++p) at[p] = from.panel[p] + s * Dot::kVectorBytes;
      ask_ahead<false>(from, at, kAheadLines);
    }
    each_step<Dot::kSteps>([&](auto step) __attribute__((always_inline)) { add(s, step); });
  }
  if ((first + count) % Dot::kDims != 0) add(end, std::integral_constant<int, 0>{});  // half a word
}

template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void one_shard(const TileSource<kPanels>& from, int64_t shard, int64_t shards,
                                             TileSums<V, kRows, kPanels>& sums) {
  const int64_t segment = from.cols / shards;
  if constexpr (panel_format(kType).code_bits == 0) {
    using Dot = std::conditional_t<kType == DType::kF32, FloatDot<V>,
                                   std::conditional_t<kType == DType::kF16, HalfDot<V>, WidenedDot<V>>>;
    if constexpr (kType == DType::kBF16) {
      if (from.brain != nullptr) {
        const typename V::BrainMode mode;
        dot_shard<V, BrainDot<V>, kRows, kPanels>(from, reinterpret_cast<const std::byte*>(from.brain),
                                                  shard * segment, segment, sums);
        sums.settle();
        return;
      }
    }
    dot_shard<V, Dot, kRows, kPanels>(from, reinterpret_cast<const std::byte*>(from.values), shard * segment,
                                      segment, sums);
  } else {
    quantised_shard<V, kType, kRows, kPanels>(from, shard, segment / contract::kGroup, sums);
  }
}

// Adds shards in the order of contract::sum_tree as they come: a stack of sums of 2^i shards, like the digits
// of a binary counter. Example of 3: p0 waits, p0 + p1 waits, (p0 + p1) + p2.
template <class V, int kRows, int kPanels>
class ShardTree {
 public:
  [[gnu::always_inline]] void add(int index, TileSums<V, kRows, kPanels>& sums) {
    for (; index % 2 != 0; index /= 2) merge(sums);
    stack_[depth_++] = sums;
  }
  // `sums` is the last shard; becomes the sum of all.
  [[gnu::always_inline]] void finish(TileSums<V, kRows, kPanels>& sums) {
    while (depth_ > 0) merge(sums);
  }

 private:
  [[gnu::always_inline]] void merge(TileSums<V, kRows, kPanels>& sums) {
    const TileSums<V, kRows, kPanels>& left = stack_[--depth_];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sums.y[r][p] = V::add(left.y[r][p], sums.y[r][p]);
  }

  TileSums<V, kRows, kPanels> stack_[4];  // 8 shards at most
  int depth_ = 0;
};

template <class V, int kRows, int kPanels>
[[gnu::always_inline]] inline void write_tile(const LinearTask& task, int64_t panel, int64_t row,
                                              const TileSums<V, kRows, kPanels>& sums) {
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const int64_t output = (panel + p) * kPanelRows;
    const int64_t left = task.weight.rows - output;
    const int lanes = left < kPanelRows ? static_cast<int>(left) : kPanelRows;
    float* out = task.out + row * task.out_stride + output - task.panel_begin * kPanelRows;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r, out += task.out_stride) {
      auto y = sums.y[r][p];
      if (task.bias != nullptr) y = V::add(y, V::load_some(task.bias + output, lanes));
      if (task.add) y = V::add(V::load_some(out, lanes), y);
      V::store_some(out, y, lanes);
    }
  }
}

template <class V, DType kType, int kRows, int kPanels>
void linear_tile(const LinearTask& task, int64_t panel, int64_t row, const Ahead& ahead) {
  TileSource<kPanels> from = {};
  from.ahead = ahead;
  from.kv = task.kv;
  for (int p = 0; p < kPanels; ++p) from.panel[p] = task.weight.data + (panel + p) * task.weight.panel_bytes;
  const int64_t cols = task.x.cols;
  from.cols = cols;
  if constexpr (panel_format(kType).code_bits == 0) {
    from.values = task.x.values + row * cols;
    if (task.x.brain != nullptr) from.brain = task.x.brain + row * brain_stride(cols);
  } else {
    from.codes = task.x.codes + row * cols;
    from.groups = task.x.groups + row * (cols / contract::kGroup);
  }
  TileSums<V, kRows, kPanels> sums;
  const int last = task.weight.k_shards - 1;
  if (last == 0) {
    one_shard<V, kType, kRows, kPanels>(from, 0, 1, sums);
    return write_tile<V, kRows, kPanels>(task, panel, row, sums);
  }
  ShardTree<V, kRows, kPanels> tree;
  for (int s = 0; s <= last; ++s) {
    one_shard<V, kType, kRows, kPanels>(from, s, last + 1, sums);
    if (s < last) tree.add(s, sums);
  }
  tree.finish(sums);
  write_tile<V, kRows, kPanels>(task, panel, row, sums);
}

// How far ahead of its use a weight is asked for. Many rows: the same place of the panels that follow. Few:
// a panel may pass faster than memory answers, so a fixed stretch of the stream, unless panels are so short
// that this would fall into one that is being read already.
template <class V, DType kType, int kMaxRows>
constexpr int64_t ahead_distance(int panels, int64_t panel_bytes) {
  constexpr bool kFloat = panel_format(kType).code_bits == 0;
  constexpr int64_t kStretch = kFloat ? V::kFloatPrefetchBytes : V::kPrefetchBytes;
  const bool narrow = kMaxRows <= kNarrowRows && (panels == 1 || panel_bytes >= 2 * kStretch);
  return narrow ? kStretch : panels * panel_bytes;
}

// All rows [first, first + count) against kPanels panels, in tiles as equal as possible.
template <class V, DType kType, int kPanels, int kMaxRows>
void linear_rows(const LinearTask& task, int64_t panel, int64_t first, int64_t count) {
  const int64_t all = (count + kMaxRows - 1) / kMaxRows, bytes = kPanels * task.weight.panel_bytes;
  Ahead ahead = {ahead_distance<V, kType, kMaxRows>(kPanels, task.weight.panel_bytes), 0,
                 static_cast<int>(all)};
  if (kMaxRows > kNarrowRows && task.weights != nullptr && count == task.x.rows) {
    ahead.weights = task.weights;
    ahead.lines = task.weights->lines_of_slab(task.weight.data + panel * task.weight.panel_bytes, bytes,
                                              kPanels * kLinesOf<kType>, static_cast<int>(all));
  }
  for (int64_t tiles = all; tiles > 0; --tiles, ++ahead.first) {
    const int64_t rows = (count + tiles - 1) / tiles;
    with_constant<kMaxRows>(static_cast<int>(rows),
                            [&](auto n) { linear_tile<V, kType, n, kPanels>(task, panel, first, ahead); });
    first += rows;
    count -= rows;
  }
}

// Rows whose activations stay in the second-level cache together while the panels pass.
template <class V>
constexpr int64_t block_rows(int64_t row_bytes) {
  const int64_t rows = V::kActivationBytes / (2 * row_bytes);
  return rows < 48 ? 48 : rows;
}

template <class V, DType kType>
void linear_typed(const LinearTask& task) {
  constexpr bool kFloat = panel_format(kType).code_bits == 0;
  constexpr int kNarrowPanels = kFloat ? V::kFloatStreams : 1;
  constexpr int kWidePanels = kFloat ? V::kFloatPanels : V::kTilePanels;
  const int64_t bytes = !kFloat ? 1 : task.x.brain != nullptr ? 2 : 4;  // of an activation
  const int64_t block = block_rows<V>(task.x.cols * bytes);
  for (int64_t first = 0; first < task.x.rows; first += block) {
    const int64_t count = task.x.rows - first < block ? task.x.rows - first : block;
    int64_t panel = task.panel_begin;
    if (count <= kNarrowRows) {
      for (; panel + kNarrowPanels <= task.panel_end; panel += kNarrowPanels)
        linear_rows<V, kType, kNarrowPanels, kNarrowRows>(task, panel, first, count);
    } else {
      for (; panel + kWidePanels <= task.panel_end; panel += kWidePanels)
        linear_rows<V, kType, kWidePanels, V::kTileRows>(task, panel, first, count);
    }
    for (; panel < task.panel_end; ++panel) linear_rows<V, kType, 1, V::kTileRows>(task, panel, first, count);
  }
}

template <class V>
void linear(const LinearTask& task) {
  switch (task.weight.type) {
    case DType::kF32:
      return linear_typed<V, DType::kF32>(task);
    case DType::kF16:
      return linear_typed<V, DType::kF16>(task);
    case DType::kBF16:
      return linear_typed<V, DType::kBF16>(task);
    case DType::kQ4_0:
      return linear_typed<V, DType::kQ4_0>(task);
    case DType::kQ4_1:
      return linear_typed<V, DType::kQ4_1>(task);
    case DType::kQ8_0:
      return linear_typed<V, DType::kQ8_0>(task);
    case DType::kQ2_K:
      return linear_typed<V, DType::kQ2_K>(task);
    case DType::kQ4_K:
      return linear_typed<V, DType::kQ4_K>(task);
    case DType::kQ5_K:
      return linear_typed<V, DType::kQ5_K>(task);
    case DType::kQ6_K:
      return linear_typed<V, DType::kQ6_K>(task);
    case DType::kIQ2_XXS:
      return linear_typed<V, DType::kIQ2_XXS>(task);
    case DType::kF8E4M3:
      return;  // refused when the layer is made
  }
}

}  // namespace baton::kernels::cpu::simd
