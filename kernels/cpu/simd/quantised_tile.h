#pragma once

#include <cstdint>

#include "kernels/cpu/kernels.h"

// One K shard of a tile of quantised weights: integer dots of a group, then one step of the float chain per
// group.
namespace baton::kernels::cpu::simd {

template <class V, int kRows, int kPanels>
struct TileSums {
  typename V::F y[kRows][kPanels];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) y[r][p] = V::zero();
  }
  // What was computed so far is computed before what follows (a change of the rounding mode).
  [[gnu::always_inline]] void settle() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < kPanels; ++p) V::settle(y[r][p]);
  }
};

// Which lines a tile asks for ahead of their use: of every slab (or row of float weights) it reads, the lines
// first, first + step, ... of the place `distance` bytes on. The tiles that pass over the same weights share
// the lines, so that memory is asked at an even rate however many rows there are. When the order of the
// thread's weights is known: the next `lines` of them.
struct Ahead {
  int64_t distance = 0;
  int first = 0;
  int step = 1;
  WeightsAhead* weights = nullptr;
  int lines = 0;
};

// Where a tile reads.
template <int kPanels>
struct TileSource {
  const std::byte* panel[kPanels];
  const float* values;
  const int8_t* codes;
  const ActivationGroup* groups;
  const uint16_t* brain;
  int64_t cols;
  Ahead ahead;
  LinesAhead* kv;  // asked for besides, or none
};

// kNear: into the first cache, where the line will be used at once; else into the second.
template <bool kNear, int kPanels>
[[gnu::always_inline]] inline void prefetch_lines(const std::byte* const (&at)[kPanels], const Ahead& ahead,
                                                  int lines) {
  for (int line = ahead.first; line < lines; line += ahead.step)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      __builtin_prefetch(at[p] + ahead.distance + line * 64, 0, kNear ? 3 : 2);
}

// The next lines of KV, into the second cache.
[[gnu::always_inline]] inline void ask_for_kv(LinesAhead* kv) {
  if (kv == nullptr || kv->next == kv->end) return;
  const std::byte* from = *kv->next + kv->offset + kv->asked;
  for (int i = 0; i < kv->lines; ++i) __builtin_prefetch(from + i * 64, 0, 2);
  kv->asked += kv->lines * 64;
  if (kv->asked < kv->piece_bytes) return;
  kv->asked = 0;
  ++kv->next;
}

template <bool kNear, int kPanels>
[[gnu::always_inline]] inline void ask_ahead(const TileSource<kPanels>& from,
                                             const std::byte* const (&at)[kPanels], int lines) {
  if (from.ahead.weights != nullptr)
    from.ahead.weights->ask(from.ahead.lines);
  else
    prefetch_lines<kNear>(at, from.ahead, lines);
  ask_for_kv(from.kv);
}

// The 16 scales or minima of group `index` of a slab.
template <class V, DType kType, bool kMin>
[[gnu::always_inline]] inline typename V::F load_scale(const std::byte* slab, int index) {
  constexpr PanelFormat kFormat = panel_format(kType);
  const std::byte* at = slab + kFormat.scale_offset(index, kMin);
  if constexpr (kFormat.form == ScaleForm::kHalf) return V::load_half(at);
  if constexpr (kFormat.form == ScaleForm::kFloat) return V::load(reinterpret_cast<const float*>(at));
  return V::mul(V::load_half(slab + kFormat.factor_offset(kMin)), V::to_float(V::load_bytes(at)));
}

// kIq2Codes as the kernels multiply them.
struct Iq2Unsigned {
  alignas(16) uint8_t code[16];
  constexpr Iq2Unsigned() : code() {
    for (int i = 0; i < 16; ++i)
      code[i] = static_cast<uint8_t>(kIq2Codes[i] + panel_format(DType::kIQ2_XXS).zero());
  }
};
inline constexpr Iq2Unsigned kIq2Unsigned;

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
        if constexpr (kFormat.indexed) {
          low[p] = V::look_up(kIq2Unsigned.code, low[p]);
          high[p] = V::look_up(kIq2Unsigned.code, high[p]);
        }
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
      const int index = half * kParts + part;
      const auto scale = load_scale<V, kType, false>(slab[p], index);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const ActivationGroup& g = groups[r * (cols / contract::kGroup)];
        sums.y[r][p] = V::fma(V::to_float(acc[r][p]), V::mul(scale, V::set(g.scale)), sums.y[r][p]);
      }
      if constexpr (kFormat.has_min) {
        const auto min = load_scale<V, kType, true>(slab[p], index);
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
    ask_ahead<(kRows <= 2)>(from, slab, kSlab / 64);
    add_group<V, kType, kRows, kPanels>(slab, 0, x, scales, from.cols, sums);
    add_group<V, kType, kRows, kPanels>(slab, 1, x + contract::kGroup, scales + 1, from.cols, sums);
    for (int p = 0; p < kPanels; ++p) slab[p] += kSlab;
  }
  if (groups % 2 != 0) add_group<V, kType, kRows, kPanels>(slab, 0, x, scales, from.cols, sums);
}

}  // namespace baton::kernels::cpu::simd
