// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/hopper_words.cuh"
#include "kernels/cuda/hopper_linear.cuh"
// clang-format on
#include <algorithm>

#include "kernels/cuda/hopper_launches.h"

namespace baton::kernels::cuda {
namespace {

template <int kTokens, int kGroups, bool kFp8>
cudaError_t prepare() {
  return cudaFuncSetAttribute(hopper_linear_kernel<kTokens, kGroups, kFp8>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              HopperTile<kTokens, kGroups, kFp8>::kBytes);
}

template <int kTokens, int kGroups, bool kFp8>
void start(const HopperLaunch& l, LaunchStream stream) {
  using Tile = HopperTile<kTokens, kGroups, kFp8>;
  const dim3 grid(l.grid.row_blocks * l.grid.token_tiles, l.splits);
  launch(hopper_linear_kernel<kTokens, kGroups, kFp8>, grid, Tile::kThreads, Tile::kBytes, stream, l.weights,
         l.x, l.args, l.grid);
}

template <bool kFp8>
cudaError_t prepare_all() {
  for (const cudaError_t error : {prepare<8, 1, kFp8>(), prepare<16, 1, kFp8>(), prepare<32, 1, kFp8>(),
                                  prepare<64, 1, kFp8>(), prepare<128, 1, kFp8>(), prepare<128, 2, kFp8>()})
    if (error != cudaSuccess) return error;
  return cudaSuccess;
}

template <bool kFp8>
void start_tile(const HopperLaunch& l, LaunchStream stream) {
  if (l.tile.rows == 128) return start<128, 2, kFp8>(l, stream);
  if (l.tile.tokens == 8) return start<8, 1, kFp8>(l, stream);
  if (l.tile.tokens == 16) return start<16, 1, kFp8>(l, stream);
  if (l.tile.tokens == 32) return start<32, 1, kFp8>(l, stream);
  if (l.tile.tokens == 64) return start<64, 1, kFp8>(l, stream);
  start<128, 1, kFp8>(l, stream);
}

}  // namespace

cudaError_t prepare_hopper_linear() {
  const cudaError_t error = prepare_all<false>();
  return error != cudaSuccess ? error : prepare_all<true>();
}

void launch_hopper_linear(const HopperLaunch& l, LaunchStream stream) {
  l.args.weight_scales != nullptr ? start_tile<true>(l, stream) : start_tile<false>(l, stream);
}

}  // namespace baton::kernels::cuda
