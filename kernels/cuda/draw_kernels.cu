// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/draw_kernels.cuh"
// clang-format on
#include "kernels/cuda/launches.h"

namespace baton::kernels::cuda {

void launch_draw(const StepTables& step, const DrawArgs& a, int rows, LaunchStream stream) {
  launch(draw_kernel, rows, kDrawThreads, sizeof(DrawScratch), stream, step, a);
}

}  // namespace baton::kernels::cuda
