#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "kernels/device_options.h"

namespace baton::kernels {

// The CUDA backend lives in a shared object of its own (libbaton_cuda.so), opened when a device is asked for:
// who computes on the CPU needs neither cuBLAS nor NCCL. Looked for in BATON_CUDA_LIBRARY (a file), beside
// the program, and in lib/ beside the program's folder. Errors: kUnimplemented when the build has none,
// kUnavailable when its libraries, the driver or the device are missing.
absl::StatusOr<std::unique_ptr<Backend>> load_cuda_backend(const BackendOptions& options,
                                                           const DeviceOptions& device);

// Chooses the algorithms for `numerics: invariant` on the device (kernels/cuda/tuner.h): the text of a table
// for these layers, of which only the shapes are looked at. `said` hears how it goes. Minutes. Errors as
// above, and those of the device.
struct TuneRequest {
  std::string device = "cuda";
  std::vector<LinearSpec> linears;
  int most_rows = 0;  // of a step
  int rounds = 5;     // in which an algorithm is timed
  std::function<void(std::string_view)> said;
};
absl::StatusOr<std::string> tune_cuda(const TuneRequest& request);

// What the shared object exports. The number changes with backend.h or the options: an object of another
// build is refused.
inline constexpr int kCudaInterface = 5;
using CudaInterface = int (*)();
using MakeCudaBackend = void (*)(const BackendOptions&, const DeviceOptions&,
                                 absl::StatusOr<std::unique_ptr<Backend>>*);
using TuneCuda = void (*)(const TuneRequest&, absl::StatusOr<std::string>*);
inline constexpr const char* kTuneCudaSymbol = "baton_cuda_tune";
inline constexpr const char* kCudaInterfaceSymbol = "baton_cuda_interface";
inline constexpr const char* kMakeCudaBackendSymbol = "baton_cuda_make_backend";

}  // namespace baton::kernels
