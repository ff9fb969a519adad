// In place of kernels/cuda_library.cc: the CUDA backend of this program is the one on the emulated device.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/tune_device.h"
#include "kernels/cuda_library.h"

namespace baton::kernels {

absl::StatusOr<std::unique_ptr<Backend>> load_cuda_backend(const BackendOptions& options,
                                                           const DeviceOptions& device) {
  return cuda::CudaBackend::create(options, device);
}

absl::StatusOr<std::string> tune_cuda(const TuneRequest& request) { return cuda::tune_device(request); }

}  // namespace baton::kernels
