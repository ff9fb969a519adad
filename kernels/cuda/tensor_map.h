#pragma once

#include <cstdint>

#include "base/status.h"

namespace baton::kernels::cuda {

// What the copy engine of sm_90 needs to know of a matrix in device memory to bring boxes of it to shared
// memory: a CUtensorMap, passed to kernels by value. Rows of a box are 128 bytes (64 columns of bf16) and
// swizzled. Plain C++20, for both compilers.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// bf16 [rows][ld], of which `cols` columns exist; boxes of 64 columns and box_rows (8 to 256) rows. base and
// 2 * ld are multiples of 16. Beyond rows and cols a box has zeros. Errors: what the driver refuses, with its
// number.
struct TensorShape {
  const uint16_t* base;
  int64_t rows;
  int64_t cols;
  int64_t ld;
  int box_rows;
};
absl::StatusOr<TensorMap> make_tensor_map(const TensorShape& shape);

}  // namespace baton::kernels::cuda
