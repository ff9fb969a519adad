// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/hopper_words.cuh"
#include "kernels/cuda/hopper_linear.cuh"
// clang-format on
#include <algorithm>

#include "kernels/cuda/hopper_launches.h"

namespace baton::kernels::cuda {
namespace {

template <int kTokens, int kGroups>
cudaError_t prepare() {
  return cudaFuncSetAttribute(hopper_linear_kernel<kTokens, kGroups>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              HopperTile<kTokens, kGroups>::kBytes);
}

template <int kTokens, int kGroups>
void start(const HopperLaunch& l, cudaStream_t stream) {
  using Tile = HopperTile<kTokens, kGroups>;
  const dim3 grid(l.grid.row_blocks * l.grid.token_tiles, l.splits);
  launch(hopper_linear_kernel<kTokens, kGroups>, grid, Tile::kThreads, Tile::kBytes, stream, l.weights, l.x,
         l.args, l.grid);
}

}  // namespace

cudaError_t prepare_hopper_linear() {
  for (const cudaError_t error : {prepare<8, 1>(), prepare<16, 1>(), prepare<32, 1>(), prepare<64, 1>(),
                                  prepare<128, 1>(), prepare<128, 2>()})
    if (error != cudaSuccess) return error;
  return cudaSuccess;
}

void launch_hopper_linear(const HopperLaunch& l, cudaStream_t stream) {
  if (l.tile.rows == 128) return start<128, 2>(l, stream);
  if (l.tile.tokens == 8) return start<8, 1>(l, stream);
  if (l.tile.tokens == 16) return start<16, 1>(l, stream);
  if (l.tile.tokens == 32) return start<32, 1>(l, stream);
  if (l.tile.tokens == 64) return start<64, 1>(l, stream);
  start<128, 1>(l, stream);
}

}  // namespace baton::kernels::cuda
