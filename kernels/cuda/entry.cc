// What libbaton_cuda.so exports (kernels/cuda_library.h).
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/tune_device.h"
#include "kernels/cuda_library.h"

extern "C" {

__attribute__((visibility("default"))) int baton_cuda_interface() { return baton::kernels::kCudaInterface; }

__attribute__((visibility("default"))) void baton_cuda_make_backend(
    const baton::kernels::BackendOptions& options, const baton::kernels::DeviceOptions& device,
    absl::StatusOr<std::unique_ptr<baton::kernels::Backend>>* backend) {
  *backend = baton::kernels::cuda::CudaBackend::create(options, device);
}

__attribute__((visibility("default"))) void baton_cuda_tune(const baton::kernels::TuneRequest& request,
                                                            absl::StatusOr<std::string>* table) {
  *table = baton::kernels::cuda::tune_device(request);
}
}
