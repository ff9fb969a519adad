// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/attention_kernels.cuh"
// clang-format on
#include <algorithm>

#include "kernels/cuda/launches.h"

namespace baton::kernels::cuda {
namespace {

template <int kDim, int kWarps>
cudaError_t prepare_tile(int processors, int& blocks) {
  constexpr int kBytes = AttentionShared<kDim, kWarps>::kBytes;
  const cudaError_t error = cudaFuncSetAttribute(tile_attention_kernel<kDim, kWarps>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  int each = 0;
  const cudaError_t asked = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &each, tile_attention_kernel<kDim, kWarps>, 32 * kWarps, kBytes);
  blocks = std::max(each, 1) * processors;
  return asked;
}

template <int kDim>
cudaError_t prepare_dim(int processors, AttentionGrid& grid) {
  if (const cudaError_t error = prepare_tile<kDim, 4>(processors, grid.wide); error != cudaSuccess)
    return error;
  grid.merge = 4 * processors;
  return prepare_tile<kDim, 1>(processors, grid.narrow);
}

template <int kDim>
void launch_dim(const StepTables& step, const AttentionArgs& a, const AttentionGrid& grid,
                LaunchStream stream) {
  launch(tile_attention_kernel<kDim, 4>, grid.wide, 128, AttentionShared<kDim, 4>::kBytes, stream, step, a);
  launch(tile_attention_kernel<kDim, 1>, grid.narrow, 32, AttentionShared<kDim, 1>::kBytes, stream, step, a);
}

}  // namespace

bool has_tile_attention(int head_dim) { return head_dim == 64 || head_dim == 128; }

cudaError_t prepare_attention(int head_dim, int processors, AttentionGrid& grid) {
  if (head_dim == 64) return prepare_dim<64>(processors, grid);
  if (head_dim == 128) return prepare_dim<128>(processors, grid);
  return cudaSuccess;
}

void launch_plain_attention(const StepTables& step, const AttentionArgs& a, int rows, LaunchStream stream) {
  const size_t shared = 2 * sizeof(float) * a.kv.head_dim;
  launch(plain_attention_kernel, dim3(rows, a.heads), kPlainThreads, shared, stream, step, a);
}

void launch_tile_attention(const StepTables& step, const AttentionArgs& a, const AttentionGrid& grid,
                           LaunchStream stream) {
  a.kv.head_dim == 64 ? launch_dim<64>(step, a, grid, stream) : launch_dim<128>(step, a, grid, stream);
  launch_merge(step, a, grid, stream);
}

void launch_merge(const StepTables& step, const AttentionArgs& a, const AttentionGrid& grid,
                  LaunchStream stream) {
  if (a.kv.head_dim == 64) return launch(merge_kernel<64>, grid.merge, kPlainThreads, 0, stream, step, a);
  launch(merge_kernel<128>, grid.merge, kPlainThreads, 0, stream, step, a);
}

}  // namespace baton::kernels::cuda
