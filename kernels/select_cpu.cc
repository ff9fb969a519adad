#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"

namespace baton::kernels {

absl::StatusOr<std::unique_ptr<Backend>> make_backend(const BackendOptions& options) {
  if (options.device == "cpu") return cpu::CpuBackend::create(options);
  if (options.device == "reference" && options.numerics != Numerics::kFloat)
    return absl::InvalidArgumentError("device reference computes in float32: bf16 dots are not for it");
  if (options.device == "reference") return std::make_unique<reference::ReferenceBackend>();
  return absl::InvalidArgumentError(absl::StrCat("device \"", options.device, "\": want cpu or reference"));
}

}  // namespace baton::kernels
