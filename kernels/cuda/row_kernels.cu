// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/row_kernels.cuh"
// clang-format on
#include "kernels/cuda/launches.h"

namespace baton::kernels::cuda {

void launch_embed(const StepTables& step, const EmbedArgs& a, int rows, LaunchStream stream) {
  launch(embed_kernel, rows, kRowThreads, 0, stream, step, a);
}

void launch_norm(const NormArgs& a, int rows, LaunchStream stream) {
  launch(norm_kernel, rows, kRowThreads, 0, stream, a);
}

void launch_rope_store(const StepTables& step, const RopeArgs& a, int rows, LaunchStream stream) {
  const int heads = a.heads + 2 * a.kv.kv_heads;
  const dim3 grid(rows, (heads + kRopeWarps - 1) / kRopeWarps);
  const size_t shared = sizeof(float) * kRopeWarps * a.kv.head_dim;
  launch(rope_store_kernel, grid, 32 * kRopeWarps, shared, stream, step, a);
}

void launch_silu(const SiluArgs& a, int rows, LaunchStream stream) {
  launch(silu_kernel, rows, kRowThreads, 0, stream, a);
}

void launch_add_rows(const AddRowsArgs& a, int rows, LaunchStream stream) {
  launch(add_rows_kernel, rows, kRowThreads, 0, stream, a);
}

void launch_join_rows(const JoinRowsArgs& a, LaunchStream stream) {
  launch(join_rows_kernel, dim3(static_cast<unsigned>(a.rows), static_cast<unsigned>(a.parts)), kRowThreads,
         0, stream, a);
}

void launch_keep_rows(const StepTables& step, float* values, int width, LaunchStream stream) {
  launch(keep_rows_kernel, (width + kRowThreads - 1) / kRowThreads, kRowThreads, 0, stream, step, values,
         width);
}

}  // namespace baton::kernels::cuda
