// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/hopper_words.cuh"
#include "kernels/cuda/hopper_quantise.cuh"
// clang-format on
#include "kernels/cuda/hopper_launches.h"

namespace baton::kernels::cuda {

void launch_norm_quantise(const NormArgs& a, const Fp8Rows& out, int rows, LaunchStream stream) {
  launch(norm_quantise_kernel, rows, kRowThreads, 0, stream, a, out);
}

void launch_quantise(const QuantiseArgs& a, int rows, LaunchStream stream) {
  launch(quantise_kernel, rows, kRowThreads, 0, stream, a);
}

}  // namespace baton::kernels::cuda
