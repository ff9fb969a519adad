#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/launch_stream.h"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/tensor_map.h"

// What launches.h is to the kernels of every GPU, for those of sm_90a, and how a product is shared out over
// blocks. The tile and the splits change no bit (hopper_linear.cuh). Plain C++20, for both compilers. Thread:
// the engine's.
namespace baton::kernels::cuda {

// Of a block: weight rows and tokens.
struct HopperTileShape {
  int rows;
  int tokens;
};
// Up to 512 rows of x are bound by the weights' bytes: small blocks, so that there is one for every
// processor. Example, N = 4096, K = 4096, 132 processors: 1 row: 64 x 8, 4 splits of 1 segment, 256 blocks;
// 256 rows: 64 x 128, 128 blocks; 2,048 rows: 128 x 128, 512 blocks.
HopperTileShape hopper_tile(int rows);
struct HopperPlan {
  HopperTileShape tile;
  HopperGrid grid;  // without its memory
  int splits;
  size_t partial_floats() const;  // 0 without splits
  int blocks() const { return grid.row_blocks * grid.token_tiles; }
};
HopperPlan plan_hopper_linear(const LinearArgs& a, int rows, int processors);

struct HopperLaunch {
  TensorMap weights;  // boxes of tile.rows rows
  TensorMap x;        // boxes of tile.tokens rows
  LinearArgs args;
  HopperGrid grid;
  int splits;
  HopperTileShape tile;
};
cudaError_t prepare_hopper_linear();
void launch_hopper_linear(const HopperLaunch& launch, LaunchStream stream);

// Rows for a product with e4m3 weights: normed, or as another kernel stored them.
void launch_norm_quantise(const NormArgs& a, const Fp8Rows& out, int rows, LaunchStream stream);
void launch_quantise(const QuantiseArgs& a, int rows, LaunchStream stream);

// Wide and narrow items of a step; launch_merge() collects the partial results.
struct HopperAttentionLaunch {
  TensorMap pool;  // the layer's vectors as rows of head_dim; boxes of min(block_tokens, 64) rows
  StepTables step;
  AttentionArgs args;
  AttentionGrid grid;
};
cudaError_t prepare_hopper_attention(int head_dim, int processors, AttentionGrid& grid);
void launch_hopper_attention(const HopperAttentionLaunch& launch, LaunchStream stream);

}  // namespace baton::kernels::cuda
