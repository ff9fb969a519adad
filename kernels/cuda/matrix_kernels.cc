#include "kernels/cuda/matrix_kernels.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "base/check.h"
#include "kernels/cuda/hopper_launches.h"
#include "kernels/cuda/launches.h"

namespace baton::kernels::cuda {
namespace {

// Row blocks that split their segments are fewer than this (plan_hopper_linear: twice the processors).
constexpr size_t kMostParts = 4096;

absl::Status make_room(DeviceBuffer& buffer, size_t bytes) {
  if (buffer.bytes() >= bytes) return absl::OkStatus();
  buffer = DeviceBuffer();
  ASSIGN_OR_RETURN(buffer,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, bytes, "partial sums of matrix kernels"));
  return absl::OkStatus();
}

}  // namespace

absl::Status MatrixKernels::open(const DeviceProperties& device) {
  const char* chosen = std::getenv("BATON_CUDA_WGMMA");
  wgmma_ = device.capability == 90 && (chosen == nullptr || std::string_view(chosen) != "0");
  processors_ = device.processors;
  RETURN_IF_ERROR(
      to_status(wgmma_ ? prepare_hopper_linear() : prepare_linear(), "preparing the matrix kernels"));
  return wgmma_ ? make_room(arrived_, kMostParts * sizeof(int32_t)) : absl::OkStatus();
}

absl::Status MatrixKernels::add(const PackedShape& shape) {
  if (!wgmma_) return absl::OkStatus();
  const int ld = shape.fp8 ? shape.ld / 2 : shape.ld;
  const LinearArgs a = {.rows = shape.rows, .strips = shape.strips, .cols = shape.cols, .ld = ld};
  size_t floats = 0;
  for (int rows = 8; rows <= 512; rows += 8)
    floats = std::max(floats, plan_hopper_linear(a, rows, processors_).partial_floats());
  return floats == 0 ? absl::OkStatus() : make_room(partials_, floats * sizeof(float));
}

absl::Status MatrixKernels::multiply(const LinearArgs& a, int rows, LaunchStream stream) {
  if (!wgmma_) {
    launch_linear(a, rows, stream);
    return absl::OkStatus();
  }
  HopperPlan plan = plan_hopper_linear(a, rows, processors_);
  BATON_CHECK(plan.splits == 1 || static_cast<size_t>(plan.blocks()) <= kMostParts);
  plan.grid.partials = partials_.as<float>();
  plan.grid.arrived = arrived_.as<int32_t>();
  ASSIGN_OR_RETURN(const TensorMap weights,
                   make_tensor_map({a.weights, int64_t{a.strips} * 16, a.ld, a.ld, plan.tile.rows}));
  ASSIGN_OR_RETURN(const TensorMap x, make_tensor_map({a.x, rows, a.cols, a.ldx, plan.tile.tokens}));
  launch_hopper_linear({weights, x, a, plan.grid, plan.splits, plan.tile}, stream);
  return absl::OkStatus();
}

}  // namespace baton::kernels::cuda
