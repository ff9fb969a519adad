// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/linear_kernels.cuh"
// clang-format on
#include "kernels/cuda/launches.h"

namespace baton::kernels::cuda {
namespace {

constexpr int kTileShared = kTileStages * kTileStageBytes;

template <int kTiles>
void launch_stream(const LinearArgs& a, LaunchStream stream) {
  const size_t shared = kStreamWarps * 128 * kTiles * sizeof(float);
  launch(stream_kernel<kTiles>, a.strips, 32 * kStreamWarps, shared, stream, a);
}

}  // namespace

cudaError_t prepare_linear() {
  return cudaFuncSetAttribute(tile_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileShared);
}

void launch_linear(const LinearArgs& a, int rows, LaunchStream stream) {
  if (rows <= 8) return launch_stream<1>(a, stream);
  if (rows <= 16) return launch_stream<2>(a, stream);
  if (rows <= 32) return launch_stream<4>(a, stream);
  if (rows <= 64) return launch_stream<8>(a, stream);
  const dim3 grid((a.strips * 16 + kTileRows - 1) / kTileRows, (rows + kTileTokens - 1) / kTileTokens);
  launch(tile_kernel, grid, kTileThreads, kTileShared, stream, a);
}

}  // namespace baton::kernels::cuda
