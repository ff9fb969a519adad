#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace baton::kernels {

// Bytes from one row of the view to the next one. The view was checked (check_weight).
size_t row_stride(const WeightView& view);

// The scale of row `row` and columns 128 * block and on, of a view in F8_E4M3.
float block_scale(const WeightView& view, int64_t row, int64_t block);

// Rows [first, first + count).
WeightView rows_of(const WeightView& view, int64_t first, int64_t count);

// Columns [first, first + count): whole blocks of the format, kInvalidArgument otherwise.
// Example Q4_1 [576][1536], columns [512, 1024): 16 blocks of 20 bytes a row, rows 960 bytes apart.
absl::StatusOr<WeightView> columns_of(const WeightView& view, int64_t first, int64_t count);

}  // namespace baton::kernels
