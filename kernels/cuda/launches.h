#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/launch_stream.h"
#include "kernels/cuda/step_tables.h"

// One function a kernel: grid, block and shared memory from the shapes. They enqueue on `stream` and return;
// a launch error stays with the runtime (cudaGetLastError). `rows` bounds the grid: how many rows there
// really are stands in the step's tables. Plain C++20, for both compilers. Thread: the engine's.
namespace baton::kernels::cuda {

void launch_embed(const StepTables& step, const EmbedArgs& a, int rows, LaunchStream stream);
void launch_norm(const NormArgs& a, int rows, LaunchStream stream);
void launch_rope_store(const StepTables& step, const RopeArgs& a, int rows, LaunchStream stream);
void launch_silu(const SiluArgs& a, int rows, LaunchStream stream);
void launch_add_rows(const AddRowsArgs& a, int rows, LaunchStream stream);
void launch_join_rows(const JoinRowsArgs& a, LaunchStream stream);
void launch_keep_rows(const StepTables& step, float* values, int width, LaunchStream stream);

void launch_draw(const StepTables& step, const DrawArgs& a, int rows, LaunchStream stream);

// The kernel by the number of rows; the bits are the same (linear_kernels.cuh). Rows beyond 64 need shared
// memory that prepare_linear() asks for once per device.
cudaError_t prepare_linear();
void launch_linear(const LinearArgs& a, int rows, LaunchStream stream);

// How many blocks of a persistent grid the device holds at once.
struct AttentionGrid {
  int wide = 0;
  int narrow = 0;
  int merge = 0;
};
bool has_tile_attention(int head_dim);  // 64 and 128
cudaError_t prepare_attention(int head_dim, int processors, AttentionGrid& grid);
void launch_plain_attention(const StepTables& step, const AttentionArgs& a, int rows, LaunchStream stream);
// Wide and narrow items, then the partial results.
void launch_tile_attention(const StepTables& step, const AttentionArgs& a, const AttentionGrid& grid,
                           LaunchStream stream);
void launch_merge(const StepTables& step, const AttentionArgs& a, const AttentionGrid& grid,
                  LaunchStream stream);

}  // namespace baton::kernels::cuda
