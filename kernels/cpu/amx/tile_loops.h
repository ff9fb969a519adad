#pragma once

#include <cstdint>

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/row_tiles.h"
#include "kernels/cpu/simd/linear_loops.h"

// Quantised matrices times tiles of up to 16 rows: a tile product gives the integer dots of a group for all
// rows and a panel's 16 outputs at once; the float chain is that of simd/quantised_tile.h. The dots are
// exact, so the bits are the same.
//
// What bounds it (measured on Granite Rapids at 3.8 GHz with loops of nothing else): 16 rows x 16 outputs x
// 32 columns are 8,192 products. Their tile product and its store take 16 cycles each. The float chain is 16
// conversions, products of scales and fma (and 16 fma more with minima), two a cycle, but one a cycle within
// some 80 cycles of any tile instruction: 48 (64) cycles, in which the tiles' 32 disappear. Vector dots: 64
// cycles of dots, 24 (32) of chain and 6 of nibbles.
namespace baton::kernels::cpu::amx {

using V = avx512::Lanes<true>;

template <int kRows>
using Sums = simd::TileSums<V, kRows, 1>;

// A panel's codes of one group of 32 columns as signed bytes: [8][16 outputs][4].
inline constexpr int kOpenedBytes = kTiledGroup * kPanelRows;

struct Iq2Signed {
  alignas(16) uint8_t code[16];
  constexpr Iq2Signed() : code() {
    for (int i = 0; i < 16; ++i) code[i] = static_cast<uint8_t>(kIq2Codes[i]);
  }
};
inline constexpr Iq2Signed kIq2Signed;

// One group of a slab.
template <DType kType>
[[gnu::always_inline]] inline void open_group(const std::byte* from, std::byte* to) {
  constexpr PanelFormat kFormat = panel_format(kType);
  const auto put = [&](int line, __m512i codes) __attribute__((always_inline)) {
    if constexpr (kFormat.indexed) {
      codes = V::look_up(kIq2Signed.code, codes);
    } else if constexpr (kFormat.zero() != 0) {
      codes = _mm512_sub_epi8(codes, _mm512_set1_epi8(static_cast<char>(kFormat.zero())));
    }
    _mm512_store_si512(to + line * 64, codes);
  };
#pragma GCC unroll 8
  for (int i = 0; i < kFormat.code_bits; ++i) {
    const __m512i codes = V::load_codes(from + i * 64);
    if constexpr (kFormat.code_bits == 8) {
      put(i, codes);
    } else {
      put(2 * i, V::low_nibbles(codes));
      put(2 * i + 1, V::high_nibbles(codes));
    }
  }
}

// A whole panel: [cols / 32] groups. Before the first product, because a tile is not loaded from stores that
// are still on their way.
template <DType kType>
void open_panel(const PanelsView& weight, const std::byte* slab, std::byte* to) {
  constexpr PanelFormat kFormat = panel_format(kType);
  const int64_t groups = weight.cols / kTiledGroup / weight.k_shards;
  for (int shard = 0; shard < weight.k_shards; ++shard)
    for (int64_t g = 0; g < groups; g += 2, slab += kFormat.slab_bytes()) {
      open_group<kType>(slab, to);
      to += kOpenedBytes;
      if (g + 1 == groups) continue;
      open_group<kType>(slab + kFormat.code_bytes() / 2, to);
      to += kOpenedBytes;
    }
}

// All tiles of rows against one panel, which is open. The products are one stream, tile by tile and group by
// group, that runs kLag groups before the float chain, across tiles too: nobody waits for a product.
// kRows: those of a tile, rounded up to an even number.
template <DType kType, int kRows>
class PanelProducts {
 public:
  [[gnu::always_inline]] PanelProducts(const Activations& x, int64_t tiles)
      : rows_(x.tiles.rows),
        group_bytes_(tiled_group_bytes(rows_)),
        dots_(x.tiles.data),
        chain_(x.tiles.data),
        opened_(x.opened),
        opened_end_(x.opened + x.cols * kPanelRows),
        codes_(x.opened),
        left_(tiles * (x.cols / kTiledGroup)) {
    for (int i = 0; i < kLag && left_ > 0; ++i) {
      multiply();
      store(i);
    }
  }

  // The float chain of the next `groups` groups: a K shard of a tile, whose slabs begin at `slab`.
  [[gnu::noinline]] void shard(const simd::TileSource<1>& from, const std::byte* slab, int64_t groups,
                               Sums<kRows>& sums) {
    Sums<kRows> y;  // in registers
    y.clear();
    for (int64_t g = 0; g < groups; g += 2, slab += kFormat.slab_bytes()) {
      simd::ask_ahead<false>(from, {slab}, kFormat.slab_bytes() / 64);
      step<0>(slab, y);
      if (g + 1 < groups) step<1>(slab, y);
    }
    sums = y;
  }

 private:
  static constexpr PanelFormat kFormat = panel_format(kType);
  static constexpr int kParts = kTiledGroup / kFormat.group;  // tile products of a group
  static constexpr int kLag = 2;
  static constexpr int kRing = 4;
  using Products = int32_t[kParts][kTileRows * kPanelRows];

  // The chain of one group, the half kHalf of the slab; a later product is made meanwhile.
  template <int kHalf>
  [[gnu::always_inline]] void step(const std::byte* slab, Sums<kRows>& y) {
    const bool more = left_ > 0;
    if (more) multiply();
    add<kHalf>(slab, products_[ring_], y);
    if (more) store((ring_ + kLag) % kRing);
    ring_ = (ring_ + 1) % kRing;
  }

  [[gnu::always_inline]] void multiply() {
    simd::each_step<kParts>([&](auto part) __attribute__((always_inline)) {
      load_tile<4 + part>(dots_ + part * kFormat.group, kTiledGroup);
      load_tile<6 + part>(codes_ + part * kFormat.group * kPanelRows, 64);
      clear_tile<part>();
      add_product<part, 4 + part, 6 + part>();
    });
    dots_ += group_bytes_;
    codes_ += kOpenedBytes;
    if (codes_ == opened_end_) codes_ = opened_;
    --left_;
  }

  [[gnu::always_inline]] void store(int ring) {
    simd::each_step<kParts>(
        [&](auto part) __attribute__((always_inline)) { store_tile<part>(products_[ring][part], 64); });
  }

  template <int kHalf>
  [[gnu::always_inline]] void add(const std::byte* slab, const Products& products, Sums<kRows>& sums) {
    const auto* scales = reinterpret_cast<const float*>(chain_ + rows_ * kTiledGroup);
    chain_ += group_bytes_;
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      const int index = kHalf * kParts + part;
      const auto scale = simd::load_scale<V, kType, false>(slab, index);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto dots = _mm512_load_si512(products[part] + r * kPanelRows);
        sums.y[r][0] = V::fma(V::to_float(dots), V::mul(scale, V::set(scales[r])), sums.y[r][0]);
      }
      if constexpr (kFormat.has_min) {
        const auto min = simd::load_scale<V, kType, true>(slab, index);
        const float* scaled_sums = scales + (kParts == 1 ? 1 : 2 + part) * rows_;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) sums.y[r][0] = V::fma(min, V::set(scaled_sums[r]), sums.y[r][0]);
      }
    }
  }

  alignas(64) Products products_[kRing];
  int ring_ = 0;        // of the chain's next group
  const int64_t rows_;  // of a tile
  const int64_t group_bytes_;
  const std::byte* dots_;   // the next product's rows
  const std::byte* chain_;  // the chain's next group
  const std::byte* opened_;
  const std::byte* opened_end_;
  const std::byte* codes_;  // the next product's outputs
  int64_t left_;            // products
};

// Rows [0, rows) of a tile; behind them it holds nothing.
template <int kRows>
[[gnu::always_inline]] inline void write_rows(const LinearTask& task, int64_t panel, int64_t row,
                                              int64_t rows, const Sums<kRows>& sums) {
  if (rows == kRows) return simd::write_tile<V, kRows, 1>(task, panel, row, sums);
  const Sums<kRows> kept = sums;
  for (int64_t r = 0; r < rows; ++r) simd::write_tile<V, 1, 1>(task, panel, row + r, {{{kept.y[r][0]}}});
}

template <DType kType, int kRows>
void panel_times_tiles(const LinearTask& task, int64_t panel, simd::Ahead ahead) {
  const std::byte* data = task.weight.data + panel * task.weight.panel_bytes;
  const int shards = task.weight.k_shards;
  const int64_t groups = task.x.cols / kTiledGroup / shards;
  const int64_t shard_bytes = (groups + 1) / 2 * panel_format(kType).slab_bytes();
  const int64_t tiles = tiles_of(task.x.rows), tile_rows = task.x.tiles.rows;
  open_panel<kType>(task.weight, data, task.x.opened);
  PanelProducts<kType, kRows> products(task.x, tiles);
  simd::TileSource<1> from = {};
  from.kv = task.kv;
  for (int64_t row = 0; row < task.x.rows; row += tile_rows, ++ahead.first) {
    from.ahead = ahead;
    Sums<kRows> sums;
    simd::ShardTree<V, kRows, 1> tree;
    for (int s = 0; s < shards; ++s) {
      products.shard(from, data + s * shard_bytes, groups, sums);
      if (s + 1 < shards) tree.add(s, sums);
    }
    tree.finish(sums);
    const int64_t left = task.x.rows - row;
    write_rows<kRows>(task, panel, row, left < tile_rows ? left : tile_rows, sums);
  }
}

template <DType kType>
void linear_tiled(const LinearTask& task) {
  constexpr int kGroup = panel_format(kType).group;
  const int tile_rows = task.x.tiles.rows;
  TileShapes shapes;  // 0, 1: products; 4, 5: rows; 6, 7: outputs
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = static_cast<uint8_t>(i < 6 ? tile_rows : kGroup / 4);
    shapes.row_bytes[i] = i == 4 || i == 5 ? kGroup : 64;
  }
  const TilesInUse use(shapes);
  const int tiles = static_cast<int>(tiles_of(task.x.rows));
  const int64_t bytes = task.weight.panel_bytes;
  for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    simd::Ahead ahead = {bytes, 0, tiles};
    if (task.weights != nullptr) {
      ahead.weights = task.weights;
      ahead.lines =
          task.weights->lines_of_slab(task.weight.data + panel * bytes, bytes, simd::kLinesOf<kType>, tiles);
    }
    // 25 rows and more in tiles as equal as possible: 11 to 16 each.
    simd::with_constant<3>((tile_rows - 9) / 2,
                           [&](auto n) { panel_times_tiles<kType, 2 * n + 10>(task, panel, ahead); });
  }
}

}  // namespace baton::kernels::cpu::amx
