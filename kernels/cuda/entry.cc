// What libbaton_cuda.so exports (kernels/cuda_library.h).
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda_library.h"

extern "C" {

__attribute__((visibility("default"))) int baton_cuda_interface() { return baton::kernels::kCudaInterface; }

__attribute__((visibility("default"))) void baton_cuda_make_backend(
    const baton::kernels::BackendOptions& options,
    absl::StatusOr<std::unique_ptr<baton::kernels::Backend>>* backend) {
  *backend = baton::kernels::cuda::CudaBackend::create(options);
}
}
