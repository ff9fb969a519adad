#include "kernels/dequantize.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/float16.h"
#include "kernels/float8.h"
#include "kernels/quant_block.h"
#include "kernels/weight_slice.h"

namespace baton::kernels {
namespace {

template <class Convert>
void widen(const std::byte* row, std::span<float> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, 2);
    out[i] = convert(bits);
  }
}

void dequantize_blocks(DType type, const std::byte* row, std::span<float> out) {
  const DTypeTraits traits = traits_of(type);
  const QuantFormat format = quant_format(type);
  QuantBlock block;
  for (size_t first = 0; first < out.size(); first += traits.elements, row += traits.bytes) {
    open_block(type, row, block);
    for (int e = 0; e < traits.elements; ++e) {
      const int g = e / format.group;
      const float product = block.scale[g] * static_cast<float>(block.codes[e]);
      out[first + e] = format.has_min ? product + block.min[g] : product;  // -0 + 0 would lose the sign
    }
  }
}

}  // namespace

absl::StatusOr<size_t> row_bytes(DType type, int64_t cols) {
  const DTypeTraits traits = traits_of(type);
  if (cols <= 0 || cols % traits.elements != 0)
    return absl::InvalidArgumentError(absl::StrCat("a row of ", cols, " is not a whole number of ",
                                                   std::string(traits.name), " blocks of ", traits.elements));
  return static_cast<size_t>(cols / traits.elements) * traits.bytes;
}

void dequantize_row(DType type, const std::byte* row, std::span<float> out) {
  BATON_CHECK(out.size() % traits_of(type).elements == 0);
  switch (type) {
    case DType::kF32:
      std::memcpy(out.data(), row, out.size_bytes());
      return;
    case DType::kF16:
      return widen(row, out, half_to_float);
    case DType::kBF16:
      return widen(row, out, bfloat16_to_float);
    default:
      return dequantize_blocks(type, row, out);
  }
}

void open_row(const WeightView& view, int64_t row, std::span<float> out) {
  const std::byte* from = view.data + row * row_stride(view);
  if (view.type != DType::kF8E4M3) return dequantize_row(view.type, from, out);
  for (int64_t c = 0; c < view.cols; ++c)
    out[c] = e4m3_to_float(std::to_integer<uint8_t>(from[c])) * block_scale(view, row, c / kFp8Block);
}

absl::Status check_weight(const WeightView& view) {
  if (view.data == nullptr) return absl::InvalidArgumentError("weight without data");
  if (view.rows <= 0) return absl::InvalidArgumentError(absl::StrCat("weight of ", view.rows, " rows"));
  ASSIGN_OR_RETURN(const size_t bytes, row_bytes(view.type, view.cols));
  if (view.type == DType::kF8E4M3 && view.block_scales == nullptr)
    return absl::InvalidArgumentError("weights in F8_E4M3 without scales");
  if (view.row_stride > 0 && view.row_stride < bytes)
    return absl::InvalidArgumentError(absl::StrCat("rows of ", bytes, " bytes ", view.row_stride, " apart"));
  return absl::OkStatus();
}

}  // namespace baton::kernels
