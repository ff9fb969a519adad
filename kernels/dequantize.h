#pragma once

#include <span>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/backend.h"

namespace baton::kernels {

// Bytes of one row of `cols` elements. Error when a row is not a whole number of the type's blocks.
absl::StatusOr<size_t> row_bytes(DType type, int64_t cols);

// Opens one row of `out.size()` elements into floats, bit-equal to gguf-py's dequantize. `row` holds
// row_bytes(type, out.size()) bytes, which must be a whole number of blocks. Thread: any.
void dequantize_row(DType type, const std::byte* row, std::span<float> out);

// Row `row` of a view that was checked, in floats: its numbers times their scales where the type is F8_E4M3.
void open_row(const WeightView& view, int64_t row, std::span<float> out);

// Checks the shape (rows and cols positive, whole blocks, data present).
absl::Status check_weight(const WeightView& view);

}  // namespace baton::kernels
