#include "kernels/cuda/cuda_linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::cuda {

PackedShape packed_shape(const LinearSpec& spec) {
  PackedShape shape;
  for (const WeightView& part : spec.parts) shape.rows += static_cast<int>(part.rows);
  shape.cols = static_cast<int>(spec.parts[0].cols);
  shape.ld = (shape.cols + 63) / 64 * 64;
  shape.interleaved = spec.parts.size() == 2 && spec.parts[0].rows == spec.parts[1].rows;
  shape.strips = shape.interleaved ? (shape.rows / 2 + 7) / 8 : (shape.rows + 15) / 16;
  return shape;
}

int packed_row(const PackedShape& shape, int row) {
  if (!shape.interleaved) return row;
  const int half = shape.rows / 2, i = row % half;
  return i / 8 * 16 + i % 8 + (row >= half ? 8 : 0);
}

absl::StatusOr<SharedWeights> pack_weights(const LinearSpec& spec, const PackedShape& shape) {
  std::vector<uint16_t> packed(shape.bytes() / 2);
  std::vector<float> opened(shape.cols);
  int row = 0;
  for (const WeightView& part : spec.parts) {
    ASSIGN_OR_RETURN(const size_t bytes, row_bytes(part.type, part.cols));
    const size_t stride = row_stride(part);
    for (int64_t r = 0; r < part.rows; ++r) {
      uint16_t* to = packed.data() + static_cast<size_t>(packed_row(shape, row++)) * shape.ld;
      if (part.type == DType::kBF16) {
        std::memcpy(to, part.data + r * stride, bytes);
        continue;
      }
      dequantize_row(part.type, part.data + r * stride, opened);
      std::transform(opened.begin(), opened.end(), to, float_to_bfloat16);
    }
  }
  ASSIGN_OR_RETURN(DeviceBuffer buffer,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, shape.bytes(),
                                      cat("weights of ", shape.rows, " x ", shape.cols)));
  RETURN_IF_ERROR(copy_to_device(buffer.data(), packed.data(), shape.bytes(), "copying weights"));
  return std::make_shared<const DeviceBuffer>(std::move(buffer));
}

LinearArgs CudaLinear::arguments() const {
  return {.weights = weights->as<uint16_t>(),
          .rows = shape.rows,
          .strips = shape.strips,
          .cols = shape.cols,
          .ld = shape.ld,
          .interleaved = shape.interleaved,
          .bias = bias.as<float>()};
}

}  // namespace baton::kernels::cuda
