#include "kernels/cpu/amx/tile_loops.h"

namespace baton::kernels::cpu {
namespace {

void linear_tiled(const LinearTask& task) {
  switch (task.weight.type) {
    case DType::kQ4_0:
      return amx::linear_tiled<DType::kQ4_0>(task);
    case DType::kQ4_1:
      return amx::linear_tiled<DType::kQ4_1>(task);
    case DType::kQ8_0:
      return amx::linear_tiled<DType::kQ8_0>(task);
    case DType::kQ2_K:
      return amx::linear_tiled<DType::kQ2_K>(task);
    case DType::kQ4_K:
      return amx::linear_tiled<DType::kQ4_K>(task);
    case DType::kQ5_K:
      return amx::linear_tiled<DType::kQ5_K>(task);
    case DType::kQ6_K:
      return amx::linear_tiled<DType::kQ6_K>(task);
    case DType::kIQ2_XXS:
      return amx::linear_tiled<DType::kIQ2_XXS>(task);
    default:
      return;  // float types have no codes: CpuLinear does not ask
  }
}

}  // namespace

constinit const TileKernels kAmxTileKernels = {.linear = linear_tiled};

}  // namespace baton::kernels::cpu
