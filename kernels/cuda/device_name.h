#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace baton::kernels::cuda {

// Which device a manifest means: "cuda" (the first), "cuda:1" (by index), "cuda:GPU-<uuid>" or
// "cuda:MIG-<uuid>" (by UUID, as `nvidia-smi -L` prints it; a MIG slice is used as it is). A UUID is chosen
// through CUDA_VISIBLE_DEVICES before the driver starts, because a process sees one MIG slice at most.
struct DeviceName {
  int index = 0;     // when uuid is empty
  std::string uuid;  // "GPU-..." or "MIG-...", or empty

  static constexpr std::string_view kWanted = "cuda, cuda:<index>, cuda:GPU-<uuid> or cuda:MIG-<uuid>";
  static bool is_cuda(std::string_view device) { return device.substr(0, 4) == "cuda"; }
  static absl::StatusOr<DeviceName> parse(std::string_view device);
};

}  // namespace baton::kernels::cuda
