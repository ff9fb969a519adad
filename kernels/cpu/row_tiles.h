#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::kernels::cpu {

struct ActivationGroup;

// Quantised rows in the order of matrix instructions, which take up to 16 rows at once. The rows are cut into
// tiles as equal as possible; a tile is a stream of its groups of 32 columns, each on 64-byte lines:
//   codes [rows of a tile][32] | scale [rows] | scaled_sum [rows] | scaled_half_sum [2][rows]
// The last tile may have fewer rows than room. Example: 40 rows are 3 tiles of 14, 14 and 12, a group of each
// 14 * 48 B = 11 lines. Plain numbers, for the kernels (panels.h, PanelsView).
struct RowTiles {
  std::byte* data = nullptr;  // nullptr: the rows are not in tiles
  int rows = 0;               // of a tile
  int64_t tile_bytes = 0;     // all groups of a tile
};

inline constexpr int kTileRows = 16;
inline constexpr int kLeastTiledRows = 25;  // fewer are multiplied as fast by vector dots (Granite Rapids)
inline constexpr int kTiledGroup = 32;

constexpr int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
constexpr int64_t tiled_group_bytes(int64_t tile_rows) { return (tile_rows * 48 + 63) / 64 * 64; }
// Room for `rows` rows of `cols` columns, and what a kernel reads behind the last.
constexpr int64_t row_tiles_bytes(int64_t rows, int64_t cols) {
  return (rows + kTileRows) * (cols / kTiledGroup) * 64 + 64;
}

// `rows` rows of `cols` columns at `data`; kLeastTiledRows at least.
RowTiles row_tiles(std::byte* data, int64_t rows, int64_t cols);
// Puts the groups [first, first + count) of row `row` into its tile; `codes` and `groups` are those of group
// `first`. Thread: any, for different rows or groups.
void put_groups(const RowTiles& tiles, int64_t row, int64_t first, int64_t count, const int8_t* codes,
                const ActivationGroup* groups);

}  // namespace baton::kernels::cpu
