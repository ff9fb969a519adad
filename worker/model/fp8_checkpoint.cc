#include "worker/model/fp8_checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/float8.h"

namespace baton::worker {
namespace {

constexpr int64_t kBlock = kernels::kFp8Block;

constexpr std::array<float, 256> kNumbers = [] {
  std::array<float, 256> numbers{};
  for (int bits = 0; bits < 256; ++bits) numbers[bits] = kernels::e4m3_to_float(static_cast<uint8_t>(bits));
  return numbers;
}();

absl::Status refuse(const std::string& file, std::string_view tensor, std::string_view what) {
  return absl::InvalidArgumentError(cat(file, ": ", tensor, ": ", what));
}

// False when one is not a number.
bool open_run(std::span<const std::byte> from, float scale, uint16_t* to) {
  bool numbers = true;
  for (const std::byte byte : from) {
    const float value = kNumbers[std::to_integer<uint8_t>(byte)];
    numbers &= value == value;
    *to++ = kernels::float_to_bfloat16(value * scale);
  }
  return numbers;
}

}  // namespace

absl::StatusOr<std::vector<float>> read_fp8_scales(const std::string& file, const SafetensorsTensor& matrix,
                                                   const SafetensorsTensor* scales) {
  if (scales == nullptr)
    return refuse(file, matrix.name, cat("is F8_E4M3, and ", matrix.name, kFp8Scales, " is missing"));
  const int64_t down = (matrix.shape[0] + kBlock - 1) / kBlock,
                across = (matrix.shape[1] + kBlock - 1) / kBlock;
  if (scales->shape != std::vector<int64_t>{down, across})
    return refuse(file, scales->name,
                  cat("want ", down, " x ", across, " scales, one for 128 x 128 weights"));
  if (scales->type != DType::kF32 && scales->type != DType::kBF16)
    return refuse(file, scales->name, "want F32 or BF16");
  const std::vector<std::byte> aligned(scales->data, scales->data + scales->bytes);
  std::vector<float> values(static_cast<size_t>(down * across));
  kernels::dequantize_row(*scales->type, aligned.data(), values);
  if (!std::ranges::all_of(values, [](float v) { return std::isfinite(v); }))
    return refuse(file, scales->name, "a scale is infinite or not a number: the file is damaged");
  return values;
}

absl::StatusOr<std::vector<std::byte>> open_fp8_matrix(const std::string& file,
                                                       const SafetensorsTensor& matrix,
                                                       const SafetensorsTensor* scales) {
  ASSIGN_OR_RETURN(const std::vector<float> values, read_fp8_scales(file, matrix, scales));
  const int64_t rows = matrix.shape[0], cols = matrix.shape[1], across = (cols + kBlock - 1) / kBlock;
  std::vector<std::byte> out(2 * matrix.bytes);
  auto* to = reinterpret_cast<uint16_t*>(out.data());
  const std::span<const std::byte> from(matrix.data, matrix.bytes);
  bool numbers = true;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; c += kBlock) {
      const auto at = static_cast<size_t>(r * cols + c),
                 count = static_cast<size_t>(std::min(kBlock, cols - c));
      numbers &= open_run(from.subspan(at, count), values[r / kBlock * across + c / kBlock], to + at);
    }
  if (!numbers) return refuse(file, matrix.name, "a weight is not a number: the file is damaged");
  return out;
}

}  // namespace baton::worker
