#include <algorithm>

#include "kernels/cuda/hopper_launches.h"

namespace baton::kernels::cuda {

namespace {

int parts(int whole, int each) { return (whole + each - 1) / each; }

}  // namespace

HopperTileShape hopper_tile(int rows) {
  for (const int tokens : {8, 16, 32, 64})
    if (rows <= tokens) return {64, tokens};
  return {rows <= 512 ? 64 : 128, 128};
}

HopperPlan plan_hopper_linear(const LinearArgs& a, int rows, int processors) {
  const HopperTileShape tile = hopper_tile(rows);
  HopperPlan plan = {.tile = tile,
                     .grid = {.row_blocks = parts(a.strips * 16, tile.rows),
                              .token_tiles = parts(rows, tile.tokens),
                              .segments_each = 0,
                              .partials = nullptr,
                              .arrived = nullptr},
                     .splits = 1};
  const int segments = parts(a.ld, kHopperSegment);
  // Two small blocks run at once on a processor; split only while half of the places would be idle, because
  // what is split passes through memory: segments * rows * tokens floats.
  const int places = tile.rows == 128 ? 0 : tile.tokens == 128 ? processors : 2 * processors;
  const int wanted = places / plan.blocks();
  plan.grid.segments_each = parts(segments, std::clamp(wanted, 1, segments));
  plan.splits = parts(segments, plan.grid.segments_each);
  return plan;
}

size_t HopperPlan::partial_floats() const {
  if (splits == 1) return 0;
  return static_cast<size_t>(splits) * grid.segments_each * blocks() * tile.rows * tile.tokens;
}

}  // namespace baton::kernels::cuda
