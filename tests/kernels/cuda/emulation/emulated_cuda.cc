// In place of kernels/cuda_library.cc: the CUDA backend of this program is the one on the emulated device.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda_library.h"

namespace baton::kernels {

absl::StatusOr<std::unique_ptr<Backend>> load_cuda_backend(const BackendOptions& options) {
  return cuda::CudaBackend::create(options);
}

}  // namespace baton::kernels
