#include "kernels/cuda/address_range.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "base/cat.h"
#include "kernels/cuda/device_memory.h"

namespace baton::kernels::cuda {
namespace {

using GetRange = decltype(&cuMemGetAddressRange);

absl::StatusOr<GetRange> find_get_range() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(to_status(
      cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &found, 12000, cudaEnableDefault, &result),
      "asking the driver for cuMemGetAddressRange"));
  if (result != cudaDriverEntryPointSuccess || found == nullptr)
    return absl::UnavailableError("device cuda: this driver does not tell the size of an allocation");
  return reinterpret_cast<GetRange>(found);
}

}  // namespace

absl::StatusOr<size_t> bytes_behind(const void* at) {
  static const absl::StatusOr<GetRange> get_range = find_get_range();
  RETURN_IF_ERROR(get_range.status());
  CUdeviceptr base = 0;
  size_t size = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(at);
  if (const CUresult error = (*get_range)(&base, &size, address); error != CUDA_SUCCESS)
    return absl::InternalError(cat("the size of an allocation: driver error ", static_cast<int>(error)));
  return size - (address - base);
}

}  // namespace baton::kernels::cuda
