#include "kernels/cuda/cuda_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/float8.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::cuda {

PackedShape packed_shape(const LinearSpec& spec, PackedType type) {
  PackedShape shape;
  for (const WeightView& part : spec.parts) shape.rows += static_cast<int>(part.rows);
  shape.fp8 = type == PackedType::kFp8;
  const int filled = shape.fp8 ? kFp8Block : 64;
  shape.cols = static_cast<int>(spec.parts[0].cols);
  shape.ld = (shape.cols + filled - 1) / filled * filled;
  shape.interleaved = spec.parts.size() == 2 && spec.parts[0].rows == spec.parts[1].rows;
  shape.strips = shape.interleaved ? (shape.rows / 2 + 7) / 8 : (shape.rows + 15) / 16;
  return shape;
}

int packed_row(const PackedShape& shape, int row) {
  if (!shape.interleaved) return row;
  const int half = shape.rows / 2, i = row % half;
  return i / 8 * 16 + i % 8 + (row >= half ? 8 : 0);
}

std::vector<std::byte> pack_brain(const LinearSpec& spec, const PackedShape& shape) {
  std::vector<std::byte> packed(shape.bytes());
  std::vector<float> opened(shape.cols);
  int row = 0;
  for (const WeightView& part : spec.parts)
    for (int64_t r = 0; r < part.rows; ++r) {
      auto* to = reinterpret_cast<uint16_t*>(packed.data()) +
                 static_cast<size_t>(packed_row(shape, row++)) * shape.ld;
      if (part.type == DType::kBF16) {
        std::memcpy(to, part.data + r * row_stride(part), 2 * static_cast<size_t>(part.cols));
        continue;
      }
      open_row(part, r, opened);
      std::transform(opened.begin(), opened.end(), to, float_to_bfloat16);
    }
  return packed;
}

namespace {

// Where the bytes and scales of a layer go.
struct Fp8Packer {
  const PackedShape& shape;
  std::byte* bytes;
  float* scales;

  void set_scale(int row, int block, float scale) const {
    const int at = packed_row(shape, row);
    scales[(static_cast<size_t>(block) * shape.strips + at / 16) * 2 + at % 16 / 8] = scale;
  }
  std::byte* row(int row) const { return bytes + static_cast<size_t>(packed_row(shape, row)) * shape.ld; }

  // Rows [first, ..) of the layer as a checkpoint has them. False when a number is none.
  bool keep(int first, const WeightView& part) const {
    bool numbers = true;
    for (int r = 0; r < static_cast<int>(part.rows); ++r) {
      const std::byte* from = part.data + r * row_stride(part);
      std::memcpy(row(first + r), from, static_cast<size_t>(part.cols));
      for (int c = 0; c < shape.cols; ++c) numbers &= (from[c] & std::byte{0x7f}) != std::byte{0x7f};
      for (int block = 0; block * kFp8Block < shape.cols; ++block)
        set_scale(first + r, block, block_scale(part, r, block));
    }
    return numbers;
  }

  // All rows of a part, in other types, by blocks of 128.
  void quantise_part(int first, const WeightView& part, std::vector<float>& values) const {
    values.resize(static_cast<size_t>(kFp8Block) * shape.cols);
    for (int64_t begin = 0; begin < part.rows; begin += kFp8Block) {
      const int count = static_cast<int>(std::min<int64_t>(kFp8Block, part.rows - begin));
      for (int r = 0; r < count; ++r)
        open_row(part, begin + r, std::span(values).subspan(static_cast<size_t>(r) * shape.cols, shape.cols));
      quantise(first + static_cast<int>(begin), count, values);
    }
  }

  // Rows [first, first + count) of the layer, 128 at most, in floats.
  void quantise(int first, int count, std::span<const float> values) const {
    for (int begin = 0; begin < shape.cols; begin += kFp8Block) {
      const int end = std::min(begin + kFp8Block, shape.cols);
      float most = 0x1p-64f;
      for (int r = 0; r < count; ++r)
        for (int c = begin; c < end; ++c)
          most = std::max(most, std::abs(values[static_cast<size_t>(r) * shape.cols + c]));
      const float inverse = kLargestE4m3 / most;
      for (int r = 0; r < count; ++r) {
        set_scale(first + r, begin / kFp8Block, most / kLargestE4m3);
        for (int c = begin; c < end; ++c)
          row(first + r)[c] =
              std::byte{float_to_e4m3(values[static_cast<size_t>(r) * shape.cols + c] * inverse)};
      }
    }
  }
};

}  // namespace

absl::StatusOr<std::vector<std::byte>> pack_fp8(const LinearSpec& spec, const PackedShape& shape) {
  std::vector<std::byte> packed(shape.bytes());
  const Fp8Packer packer = {shape, packed.data(),
                            reinterpret_cast<float*>(packed.data() + shape.matrix_bytes())};
  std::vector<float> values;
  int row = 0;
  for (const WeightView& part : spec.parts) {
    if (part.rows % 8 != 0 || part.first_row % 8 != 0)
      return absl::InvalidArgumentError(cat("device cuda, quantization fp8: a matrix of ", part.rows,
                                            " rows (from row ", part.first_row, "): want multiples of 8"));
    if (part.type != DType::kF8E4M3)
      packer.quantise_part(row, part, values);
    else if (!packer.keep(row, part))
      return absl::InvalidArgumentError("a weight in F8_E4M3 is not a number: the checkpoint is damaged");
    row += static_cast<int>(part.rows);
  }
  return packed;
}

absl::StatusOr<SharedWeights> pack_weights(const LinearSpec& spec, const PackedShape& shape) {
  std::vector<std::byte> packed;
  if (shape.fp8) {
    ASSIGN_OR_RETURN(packed, pack_fp8(spec, shape));
  } else {
    packed = pack_brain(spec, shape);
  }
  ASSIGN_OR_RETURN(DeviceBuffer buffer,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, shape.bytes(),
                                      cat("weights of ", shape.rows, " x ", shape.cols)));
  RETURN_IF_ERROR(copy_to_device(buffer.data(), packed.data(), shape.bytes(), "copying weights"));
  return std::make_shared<const DeviceBuffer>(std::move(buffer));
}

LinearArgs CudaLinear::arguments() const {
  const int elements = shape.fp8 ? 2 : 1;  // of what the kernel counts
  return {.weights = weights->as<uint16_t>(),
          .rows = shape.rows,
          .strips = shape.strips,
          .cols = shape.cols / elements,
          .ld = shape.ld / elements,
          .interleaved = shape.interleaved,
          .bias = bias.as<float>(),
          .weight_scales =
              shape.fp8 ? reinterpret_cast<const float*>(weights->data() + shape.matrix_bytes()) : nullptr};
}

}  // namespace baton::kernels::cuda
