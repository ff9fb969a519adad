#include "kernels/cpu/amx/tiles.h"
#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {
namespace {

constexpr int kFull = 16;            // rows of a tile, and outputs
constexpr int kFullBytes = 64;       // of a row
constexpr int64_t kProductsOf = 10;  // rounds: one product is as long as a dozen rounds of the other loops

// Products of full tiles, four sums side by side.
float tile_products(int64_t rounds) {
  using namespace cpu::amx;
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) {
    shapes.rows[i] = kFull;
    shapes.row_bytes[i] = kFullBytes;
  }
  alignas(64) int8_t ones[kFull * kFullBytes];
  for (int8_t& one : ones) one = 1;
  alignas(64) int32_t sums[kFull * kFull];
  const TilesInUse use(shapes);
  load_tile<4>(ones, kFullBytes);
  load_tile<6>(ones, kFullBytes);
  clear_tile<0>();
  clear_tile<1>();
  clear_tile<2>();
  clear_tile<3>();
  for (int64_t r = 0; r < rounds; r += 4 * kProductsOf) {
    add_product<0, 4, 6>();
    add_product<1, 4, 6>();
    add_product<2, 4, 6>();
    add_product<3, 4, 6>();
  }
  store_tile<0>(sums, kFullBytes);
  return static_cast<float>(sums[0]);
}

}  // namespace

constinit const PeakLoop kAmxInt8 = {tile_products, 2 * kFull* kFull* kFullBytes / kProductsOf};

}  // namespace baton::kernels::roofline
