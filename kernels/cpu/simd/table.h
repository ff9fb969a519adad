#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/attend.h"
#include "kernels/cpu/simd/linear_loops.h"
#include "kernels/cpu/simd/row_loops.h"

namespace baton::kernels::cpu::simd {

template <class V>
constexpr Kernels table_of(const char* name) {
  return {.name = name,
          .quantise = quantise<V>,
          .rms_norm = rms_norm<V>,
          .round_brain = round_brain<V>,
          .linear = linear<V>,
          .linear_brain = linear_typed<V, DType::kBF16>,
          .linear_tiled = nullptr,
          .silu_multiply = silu_multiply<V>,
          .rotate = rotate<V>,
          .store_kv = store_kv<V>,
          .attend = attend<V>,
          .attend_brain = attend_brain<V>,
          .finish_attend = finish_attend<V>,
          .merge_attend = merge_attend<V>};
}

}  // namespace baton::kernels::cpu::simd
