#pragma once

#include "kernels/cpu/simd/attend_codes.h"
#include "kernels/cpu/simd/attend_loops.h"

// The entries of the table: one chunk by KV type, and a finished pair.
namespace baton::kernels::cpu::simd {

template <class V>
void attend(const AttendTask& task) {
  switch (task.kv.type) {
    case KvType::kF32:
      return attend_floats<V, FloatDot<V>>(task);
    case KvType::kBF16:
      return task.brain_dots ? attend_brain<V>(task) : attend_floats<V, WidenedDot<V>>(task);
    case KvType::kF16:
      return attend_floats<V, HalfDot<V>>(task);
    case KvType::kInt8:
      return attend_codes<V>(task);
  }
}

template <class V>
void finish_attend(const ChunkState& state, const float* o, int head_dim, float* out) {
  const auto inverse = V::set(1.0f / state.sum);
  for (int d = 0; d < head_dim; d += 16) {
    const int count = head_dim - d < 16 ? head_dim - d : 16;
    V::store_some(out + d, V::mul(V::load(o + d), inverse), count);
  }
}

}  // namespace baton::kernels::cpu::simd
