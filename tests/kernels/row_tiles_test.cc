#include "kernels/cpu/row_tiles.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {
namespace {

constexpr int64_t kCols = 96, kGroups = kCols / kTiledGroup;

// Code and scale of a row's group that say where they are from.
int8_t code_of(int64_t row, int64_t col) { return static_cast<int8_t>((row * 7 + col) % 128); }
ActivationGroup group_of(int64_t row, int64_t group) {
  const auto at = static_cast<float>(row * 100 + group);
  return {.scale = at,
          .scaled_sum = at + 0.25f,
          .scaled_half_sum = {at + 0.5f, at + 0.75f},
          .minus_sum = 0,
          .minus_half_sum = {}};
}

TEST(RowTiles, AreAsEqualAsPossible) {
  std::byte* nowhere = nullptr;
  const RowTiles forty = row_tiles(nowhere, 40, kCols);  // the example of the header
  EXPECT_EQ(tiles_of(40), 3);
  EXPECT_EQ(forty.rows, 14);
  EXPECT_EQ(forty.tile_bytes, kGroups * 11 * 64);
  for (int64_t rows = kLeastTiledRows; rows < 600; ++rows) {
    const RowTiles tiles = row_tiles(nowhere, rows, kCols);
    EXPECT_GE(tiles.rows, 11) << rows;  // what the kernels are made for (amx/tile_loops.h)
    EXPECT_LE(tiles.rows, kTileRows) << rows;
    EXPECT_GE(tiles.rows * tiles_of(rows), rows);
    EXPECT_LT(tiles.rows * (tiles_of(rows) - 1), rows) << "an empty tile of " << rows;
    EXPECT_LE(tiles.tile_bytes * tiles_of(rows) + 64, row_tiles_bytes(rows, kCols)) << rows;
  }
}

// Every byte of a row lies where the layout says, whoever puts which groups in which order.
TEST(RowTiles, HoldWhatWasPut) {
  for (const int64_t rows : {int64_t{25}, int64_t{33}, int64_t{48}}) {
    std::vector<std::byte> memory(row_tiles_bytes(rows, kCols));
    const RowTiles tiles = row_tiles(memory.data(), rows, kCols);
    for (int64_t row = rows - 1; row >= 0; --row) {
      std::vector<int8_t> codes;
      for (int64_t col = 0; col < kCols; ++col) codes.push_back(code_of(row, col));
      std::vector<ActivationGroup> groups;
      for (int64_t g = 0; g < kGroups; ++g) groups.push_back(group_of(row, g));
      put_groups(tiles, row, 1, kGroups - 1, codes.data() + kTiledGroup, groups.data() + 1);
      put_groups(tiles, row, 0, 1, codes.data(), groups.data());
    }
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t g = 0; g < kGroups; ++g) {
        const int64_t lane = row % tiles.rows;
        const std::byte* group =
            memory.data() + row / tiles.rows * tiles.tile_bytes + g * tiled_group_bytes(tiles.rows);
        for (int64_t k = 0; k < kTiledGroup; ++k)
          ASSERT_EQ(static_cast<int8_t>(group[lane * kTiledGroup + k]), code_of(row, g * kTiledGroup + k));
        std::vector<float> floats(4 * tiles.rows);
        std::memcpy(floats.data(), group + tiles.rows * kTiledGroup, floats.size() * sizeof(float));
        const ActivationGroup want = group_of(row, g);
        ASSERT_EQ(floats[lane], want.scale);
        ASSERT_EQ(floats[tiles.rows + lane], want.scaled_sum);
        ASSERT_EQ(floats[2 * tiles.rows + lane], want.scaled_half_sum[0]);
        ASSERT_EQ(floats[3 * tiles.rows + lane], want.scaled_half_sum[1]);
      }
  }
}

}  // namespace
}  // namespace baton::kernels::cpu
