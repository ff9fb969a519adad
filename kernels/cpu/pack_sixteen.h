#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace baton::kernels::cpu {

// The sixteen rows of one full panel as the model file holds them.
struct SixteenRows {
  DType type = DType::kF32;
  const std::byte* first = nullptr;
  int64_t stride = 0;  // bytes of a row
  int64_t cols = 0;
  int k_shards = 1;
};

// Writes the whole panel (layout: panels.h), all rows abreast: formats whose blocks need
// no opening, only their words another order, at the rate of memory. The unused half of a
// shard's last slab is left as it is (zero). Thread: any.
void pack_sixteen(const SixteenRows& rows, std::byte* panel);

}  // namespace baton::kernels::cpu
