#include "kernels/weight_slice.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/float8.h"

namespace baton::kernels {

size_t row_stride(const WeightView& view) {
  const DTypeTraits traits = traits_of(view.type);
  return view.row_stride > 0 ? view.row_stride
                             : static_cast<size_t>(view.cols / traits.elements) * traits.bytes;
}

float block_scale(const WeightView& view, int64_t row, int64_t block) {
  const int64_t across = (view.cols + kFp8Block - 1) / kFp8Block;
  return view.block_scales[(view.first_row + row) / kFp8Block * across + block];
}

WeightView rows_of(const WeightView& view, int64_t first, int64_t count) {
  BATON_CHECK(first >= 0 && count > 0 && first + count <= view.rows);
  WeightView out = view;
  out.data += first * row_stride(view);
  out.rows = count;
  out.first_row += first;
  return out;
}

absl::StatusOr<WeightView> columns_of(const WeightView& view, int64_t first, int64_t count) {
  BATON_CHECK(first >= 0 && count > 0 && first + count <= view.cols);
  const DTypeTraits traits = traits_of(view.type);
  if (view.type == DType::kF8E4M3 && count == view.cols) return view;
  if (view.type == DType::kF8E4M3)
    return absl::InvalidArgumentError("matrices in F8_E4M3 are not cut by columns");
  if (first % traits.elements != 0 || count % traits.elements != 0)
    return absl::InvalidArgumentError(absl::StrCat("columns ", first, " to ", first + count, " cut a ",
                                                   std::string(traits.name), " block of ", traits.elements));
  WeightView out = view;
  out.data += first / traits.elements * traits.bytes;
  out.cols = count;
  out.row_stride = row_stride(view);
  return out;
}

}  // namespace baton::kernels
