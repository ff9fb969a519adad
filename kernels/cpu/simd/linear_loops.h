#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/constants.h"

// Matrix times rows, in tiles of kRows rows x kPanels panels of 16 outputs held in registers. The tile's size
// changes what is loaded how often, never the order of a sum.
namespace baton::kernels::cpu::simd {

inline constexpr int kMaxShards = 8;

template <class V, int kRows, int kPanels>
struct TileSums {
  typename V::F y[kRows][kPanels];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) y[r][p] = V::zero();
  }
};

// Where a tile reads.
template <int kPanels>
struct TileSource {
  const std::byte* panel[kPanels];
  const float* values;
  const int8_t* codes;
  const ActivationGroup* groups;
  int64_t cols;
};

template <class V, int kScaleBytes>
[[gnu::always_inline]] inline typename V::F load_scale(const std::byte* at) {
  if constexpr (kScaleBytes == 2) return V::load_half(at);
  return V::load(reinterpret_cast<const float*>(at));
}

// The integer dots of the group `part` (of 32 / group) of a slab's half: acc[r][p] = w . x in 16 lanes of
// outputs.
template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void group_dots(const std::byte* const (&codes)[kPanels], const int8_t* x,
                                              int64_t stride, typename V::I (&acc)[kRows][kPanels]) {
  constexpr PanelFormat kFormat = panel_format(kType);
  constexpr bool kWide = kFormat.zero() == 128;
  if constexpr (kFormat.code_bits == 8) {
#pragma GCC unroll 8
    for (int k = 0; k < kFormat.group; k += 4) {
      typename V::I w[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) w[p] = V::load_codes(codes[p] + k * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto four = V::set_four(x + r * stride + k);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) acc[r][p] = V::template dot<kWide>(acc[r][p], w[p], four);
      }
    }
  } else {
#pragma GCC unroll 4
    for (int k = 0; k < kFormat.group; k += 8) {
      typename V::I low[kPanels], high[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const auto both = V::load_codes(codes[p] + k * 8);
        low[p] = V::low_nibbles(both);
        high[p] = V::high_nibbles(both);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto first = V::set_four(x + r * stride + k);
        const auto second = V::set_four(x + r * stride + k + 4);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          acc[r][p] = V::template dot<false>(acc[r][p], low[p], first);
          acc[r][p] = V::template dot<false>(acc[r][p], high[p], second);
        }
      }
    }
  }
}

// Adds one group of 32 columns: the half `half` of the slab at `slab`.
template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void add_group(const std::byte* const (&slab)[kPanels], int half,
                                             const int8_t* x, const ActivationGroup* groups, int64_t cols,
                                             TileSums<V, kRows, kPanels>& sums) {
  constexpr PanelFormat kFormat = panel_format(kType);
  constexpr int kParts = contract::kGroup / kFormat.group;
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    typename V::I acc[kRows][kPanels];
    const std::byte* codes[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      codes[p] = slab[p] + (half * kParts + part) * kFormat.group * 2 * kFormat.code_bits;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const ActivationGroup& g = groups[r * (cols / contract::kGroup)];
      const auto seed =
          V::template seed<kFormat.zero_shift>(kParts == 1 ? &g.minus_sum : &g.minus_half_sum[part]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) acc[r][p] = seed;
    }
    group_dots<V, kType, kRows, kPanels>(codes, x + part * kFormat.group, cols, acc);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const std::byte* at =
          slab[p] + kFormat.code_bytes() + (half * kParts + part) * kPanelRows * kFormat.scale_bytes;
      const auto scale = load_scale<V, kFormat.scale_bytes>(at);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const ActivationGroup& g = groups[r * (cols / contract::kGroup)];
        sums.y[r][p] = V::fma(V::to_float(acc[r][p]), V::mul(scale, V::set(g.scale)), sums.y[r][p]);
      }
      if constexpr (kFormat.has_min) {
        const auto min = load_scale<V, kFormat.scale_bytes>(at + kFormat.scales_bytes());
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const ActivationGroup& g = groups[r * (cols / contract::kGroup)];
          sums.y[r][p] =
              V::fma(min, V::set(kParts == 1 ? g.scaled_sum : g.scaled_half_sum[part]), sums.y[r][p]);
        }
      }
    }
  }
}

// One K shard of a quantised tile.
template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void quantised_shard(const TileSource<kPanels>& from, int64_t shard,
                                                   int64_t groups, TileSums<V, kRows, kPanels>& sums) {
  constexpr int kSlab = panel_format(kType).slab_bytes();
  const std::byte* slab[kPanels];
  for (int p = 0; p < kPanels; ++p) slab[p] = from.panel[p] + shard * ((groups + 1) / 2) * kSlab;
  const int8_t* x = from.codes + shard * groups * contract::kGroup;
  const ActivationGroup* scales = from.groups + shard * groups;
  sums.clear();
  for (int64_t pair = 0; pair < groups / 2; ++pair, x += kSlabCols, scales += 2) {
    if constexpr (kRows <= 2)
      for (int line = 0; line < kSlab; line += 64)
        __builtin_prefetch(slab[kPanels - 1] + V::kPrefetchBytes + line);
    add_group<V, kType, kRows, kPanels>(slab, 0, x, scales, from.cols, sums);
    add_group<V, kType, kRows, kPanels>(slab, 1, x + contract::kGroup, scales + 1, from.cols, sums);
    for (int p = 0; p < kPanels; ++p) slab[p] += kSlab;
  }
  if (groups % 2 != 0) add_group<V, kType, kRows, kPanels>(slab, 0, x, scales, from.cols, sums);
}

template <class V, DType kType>
[[gnu::always_inline]] inline typename V::F load_weight(const std::byte* at) {
  if constexpr (kType == DType::kF32) return V::load(reinterpret_cast<const float*>(at));
  if constexpr (kType == DType::kF16) return V::load_half(at);
  return V::load_brain(at);
}

template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void float_shard(const TileSource<kPanels>& from, int64_t first, int64_t count,
                                               TileSums<V, kRows, kPanels>& sums) {
  constexpr int kStep = kPanelRows * (kType == DType::kF32 ? 4 : 2);
  sums.clear();
#pragma GCC unroll 4
  for (int64_t k = first; k < first + count; ++k) {
    typename V::F w[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) w[p] = load_weight<V, kType>(from.panel[p] + k * kStep);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto x = V::set(from.values[r * from.cols + k]);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sums.y[r][p] = V::fma(w[p], x, sums.y[r][p]);
    }
  }
}

template <class V, DType kType, int kRows, int kPanels>
[[gnu::always_inline]] inline void one_shard(const TileSource<kPanels>& from, int64_t shard, int64_t shards,
                                             TileSums<V, kRows, kPanels>& sums) {
  const int64_t segment = from.cols / shards;
  if constexpr (panel_format(kType).code_bits == 0) {
    float_shard<V, kType, kRows, kPanels>(from, shard * segment, segment, sums);
  } else {
    quantised_shard<V, kType, kRows, kPanels>(from, shard, segment / contract::kGroup, sums);
  }
}

// contract::sum_tree of the shards, in place; the result is parts[0].
template <class V, int kRows, int kPanels>
void add_tree(TileSums<V, kRows, kPanels>* parts, int n) {
  if (n == 1) return;
  int split = 1;
  while (split * 2 < n) split *= 2;
  add_tree<V, kRows, kPanels>(parts, split);
  add_tree<V, kRows, kPanels>(parts + split, n - split);
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p) parts[0].y[r][p] = V::add(parts[0].y[r][p], parts[split].y[r][p]);
}

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
void linear_tile(const LinearTask& task, int64_t panel, int64_t row) {
  TileSource<kPanels> from = {};
  for (int p = 0; p < kPanels; ++p) from.panel[p] = task.weight.data + (panel + p) * task.weight.panel_bytes;
  const int64_t cols = task.x.cols;
  from.cols = cols;
  if constexpr (panel_format(kType).code_bits == 0) {
    from.values = task.x.values + row * cols;
  } else {
    from.codes = task.x.codes + row * cols;
    from.groups = task.x.groups + row * (cols / contract::kGroup);
  }
  if (task.weight.k_shards == 1) {
    TileSums<V, kRows, kPanels> sums;
    one_shard<V, kType, kRows, kPanels>(from, 0, 1, sums);
    return write_tile<V, kRows, kPanels>(task, panel, row, sums);
  }
  TileSums<V, kRows, kPanels> parts[kMaxShards];
  for (int s = 0; s < task.weight.k_shards; ++s) {
    TileSums<V, kRows, kPanels> sums;
    one_shard<V, kType, kRows, kPanels>(from, s, task.weight.k_shards, sums);
    parts[s] = sums;
  }
  add_tree<V, kRows, kPanels>(parts, task.weight.k_shards);
  write_tile<V, kRows, kPanels>(task, panel, row, parts[0]);
}

// All rows [first, first + count) against kPanels panels, in tiles as equal as possible.
template <class V, DType kType, int kPanels, int kMaxRows>
void linear_rows(const LinearTask& task, int64_t panel, int64_t first, int64_t count) {
  for (int64_t tiles = (count + kMaxRows - 1) / kMaxRows; tiles > 0; --tiles) {
    const int64_t rows = (count + tiles - 1) / tiles;
    with_constant<kMaxRows>(static_cast<int>(rows),
                            [&](auto n) { linear_tile<V, kType, n, kPanels>(task, panel, first); });
    first += rows;
    count -= rows;
  }
}

// Rows whose activations stay in the second-level cache together while the panels pass.
template <class V>
constexpr int64_t block_rows(int64_t cols) {
  const int64_t rows = V::kActivationBytes / (2 * cols);
  return rows < 48 ? 48 : rows;
}

template <class V, DType kType>
void linear_typed(const LinearTask& task) {
  constexpr bool kFloat = panel_format(kType).code_bits == 0;
  constexpr int kNarrowRows = 2;  // up to here the panels are read as a stream from memory
  constexpr int kNarrowPanels = kFloat ? V::kFloatStreams : 1;
  const int64_t block = block_rows<V>(task.x.cols);
  for (int64_t first = 0; first < task.x.rows; first += block) {
    const int64_t count = task.x.rows - first < block ? task.x.rows - first : block;
    int64_t panel = task.panel_begin;
    if (count <= kNarrowRows) {
      for (; panel + kNarrowPanels <= task.panel_end; panel += kNarrowPanels)
        linear_rows<V, kType, kNarrowPanels, kNarrowRows>(task, panel, first, count);
    } else {
      for (; panel + V::kTilePanels <= task.panel_end; panel += V::kTilePanels)
        linear_rows<V, kType, V::kTilePanels, V::kTileRows>(task, panel, first, count);
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
  }
}

}  // namespace baton::kernels::cpu::simd
