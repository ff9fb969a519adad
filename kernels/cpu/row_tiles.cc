#include "kernels/cpu/row_tiles.h"

#include <cstring>

#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {

static_assert(kTiledGroup == contract::kGroup);

RowTiles row_tiles(std::byte* data, int64_t rows, int64_t cols) {
  const int64_t tiles = tiles_of(rows), tile_rows = (rows + tiles - 1) / tiles;
  return {data, static_cast<int>(tile_rows), cols / kTiledGroup * tiled_group_bytes(tile_rows)};
}

void put_groups(const RowTiles& tiles, int64_t row, int64_t first, int64_t count, const int8_t* codes,
                const ActivationGroup* groups) {
  const int64_t rows = tiles.rows, lane = row % rows, bytes = tiled_group_bytes(rows);
  std::byte* at = tiles.data + row / rows * tiles.tile_bytes + first * bytes;
  for (int64_t g = 0; g < count; ++g, at += bytes, codes += kTiledGroup) {
    std::memcpy(at + lane * kTiledGroup, codes, kTiledGroup);
    float* scales = reinterpret_cast<float*>(at + rows * kTiledGroup) + lane;
    scales[0] = groups[g].scale;
    scales[rows] = groups[g].scaled_sum;
    scales[2 * rows] = groups[g].scaled_half_sum[0];
    scales[3 * rows] = groups[g].scaled_half_sum[1];
  }
}

}  // namespace baton::kernels::cpu
