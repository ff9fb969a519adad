#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_name.h"
#include "kernels/cuda_library.h"
#include "kernels/device_options.h"
#include "kernels/reference/reference_backend.h"

namespace baton::kernels {

absl::StatusOr<std::unique_ptr<Backend>> make_backend(const BackendOptions& options) {
  return make_device_backend(options, {});
}

absl::StatusOr<std::unique_ptr<Backend>> make_device_backend(const BackendOptions& options,
                                                             const DeviceOptions& device) {
  if (cuda::DeviceName::is_cuda(options.device)) return load_cuda_backend(options, device);
  if (options.numerics == Numerics::kFastest)
    return absl::InvalidArgumentError(
        absl::StrCat("device ", options.device, ": numerics fastest is for cuda"));
  if (!device.plain())
    return absl::InvalidArgumentError(
        absl::StrCat("device ", options.device, ": quantization fp8 and numerics invariant are for cuda"));
  if (options.device == "cpu") return cpu::CpuBackend::create(options);
  if (options.device == "reference" && options.numerics != Numerics::kFloat)
    return absl::InvalidArgumentError("device reference computes in float32: bf16 dots are not for it");
  if (options.device == "reference") return std::make_unique<reference::ReferenceBackend>();
  return absl::InvalidArgumentError(
      absl::StrCat("device \"", options.device, "\": want cpu, reference or cuda"));
}

}  // namespace baton::kernels
