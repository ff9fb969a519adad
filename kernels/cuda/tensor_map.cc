#include "kernels/cuda/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "base/cat.h"
#include "kernels/cuda/device_memory.h"

namespace baton::kernels::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, asked for by name: libcuda is not linked, so that the library opens without a
// driver.
absl::StatusOr<Encode> find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  RETURN_IF_ERROR(to_status(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
      "asking the driver for cuTensorMapEncodeTiled"));
  if (result != cudaDriverEntryPointSuccess || found == nullptr)
    return absl::UnavailableError("device cuda: this driver has no tensor maps: want one for CUDA 13 (580)");
  return reinterpret_cast<Encode>(found);
}

}  // namespace

absl::StatusOr<TensorMap> make_tensor_map(const TensorShape& s) {
  static const absl::StatusOr<Encode> encode = find_encode();
  RETURN_IF_ERROR(encode.status());
  static_assert(sizeof(CUtensorMap) == sizeof(TensorMap));
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(s.cols), static_cast<cuuint64_t>(s.rows)};
  const cuuint64_t stride = static_cast<cuuint64_t>(s.ld) * 2;
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(s.box_rows)}, one[2] = {1, 1};
  const CUresult error =
      (*encode)(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint16_t*>(s.base), sizes, &stride, box,
                one, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (error != CUDA_SUCCESS)
    return absl::InternalError(cat("device cuda: a tensor map of ", s.rows, " x ", s.cols, " (", s.ld,
                                   " a row): driver error ", static_cast<int>(error)));
  TensorMap out;
  std::memcpy(&out, &map, sizeof out);
  return out;
}

}  // namespace baton::kernels::cuda
