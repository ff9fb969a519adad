#pragma once

#include <memory>

#include "base/status.h"
#include "kernels/backend.h"

namespace baton::kernels {

// The CUDA backend lives in a shared object of its own (libbaton_cuda.so), opened when a device is asked for:
// who computes on the CPU needs neither cuBLAS nor NCCL. Looked for in BATON_CUDA_LIBRARY (a file), beside
// the program, and in lib/ beside the program's folder. Errors: kUnimplemented when the build has none,
// kUnavailable when its libraries, the driver or the device are missing.
absl::StatusOr<std::unique_ptr<Backend>> load_cuda_backend(const BackendOptions& options);

// What the shared object exports. The number changes with backend.h or BackendOptions: an object of another
// build is refused.
inline constexpr int kCudaInterface = 4;
using CudaInterface = int (*)();
using MakeCudaBackend = void (*)(const BackendOptions&, absl::StatusOr<std::unique_ptr<Backend>>*);
inline constexpr const char* kCudaInterfaceSymbol = "baton_cuda_interface";
inline constexpr const char* kMakeCudaBackendSymbol = "baton_cuda_make_backend";

}  // namespace baton::kernels
