#pragma once

#include <string_view>

#include "base/status.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/cuda/launch_stream.h"

namespace baton::kernels::cuda {

// The matrix kernels of this folder for the device at hand: wgmma on sm_90 (hopper_linear.cuh), mma.sync
// elsewhere (linear_kernels.cuh; on sm_90 too with BATON_CUDA_WGMMA=0, to compare). Each is a numerics class
// of its own, with the same bits in every batch. Owns the memory in which blocks meet. Thread: the engine's.
class MatrixKernels {
 public:
  absl::Status open(const DeviceProperties& device);
  // "wgmma" or "mma": part of the numerics id.
  std::string_view name() const { return wgmma_ ? "wgmma" : "mma"; }
  bool wgmma() const { return wgmma_; }  // attention follows
  // Makes room for products with these weights. Captured graphs that used the room before are void.
  absl::Status add(const PackedShape& shape);
  // Enqueues a.out = x W^T for at most `rows` rows. x may be read up to row `rows` - 1.
  absl::Status multiply(const LinearArgs& a, int rows, LaunchStream stream);

 private:
  bool wgmma_ = false;
  int processors_ = 0;
  DeviceBuffer partials_, arrived_;
};

}  // namespace baton::kernels::cuda
