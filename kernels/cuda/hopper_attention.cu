// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/hopper_words.cuh"
#include "kernels/cuda/hopper_attention.cuh"
// clang-format on
#include <algorithm>

#include "kernels/cuda/hopper_launches.h"

namespace baton::kernels::cuda {
namespace {

template <int kDim>
cudaError_t prepare_head(int processors, AttentionGrid& grid) {
  using Shape = HopperAttention<kDim>;
  const cudaError_t error = cudaFuncSetAttribute(hopper_attention_kernel<kDim>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kBytes);
  if (error != cudaSuccess) return error;
  int each = 0;
  const cudaError_t asked = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &each, hopper_attention_kernel<kDim>, Shape::kThreads, Shape::kBytes);
  grid.wide = grid.narrow = std::max(each, 1) * processors;
  grid.merge = 4 * processors;
  return asked;
}

template <int kDim>
void launch_head(const HopperAttentionLaunch& l, LaunchStream stream) {
  using Shape = HopperAttention<kDim>;
  launch(hopper_attention_kernel<kDim>, l.grid.wide, Shape::kThreads, Shape::kBytes, stream, l.pool, l.step,
         l.args, false);
  launch(hopper_attention_kernel<kDim>, l.grid.narrow, Shape::kThreads, Shape::kBytes, stream, l.pool, l.step,
         l.args, true);
}

}  // namespace

cudaError_t prepare_hopper_attention(int head_dim, int processors, AttentionGrid& grid) {
  if (head_dim == 64) return prepare_head<64>(processors, grid);
  if (head_dim == 128) return prepare_head<128>(processors, grid);
  return cudaSuccess;
}

void launch_hopper_attention(const HopperAttentionLaunch& l, LaunchStream stream) {
  l.args.kv.head_dim == 64 ? launch_head<64>(l, stream) : launch_head<128>(l, stream);
}

}  // namespace baton::kernels::cuda
