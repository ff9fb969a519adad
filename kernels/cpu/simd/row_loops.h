#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/exponential.h"

// Loops over one row of activations, 16 lanes at a time.
namespace baton::kernels::cpu::simd {

template <class V>
void quantise_special(uint32_t magnitude, int8_t* codes, ActivationGroup* group) {
  for (int i = 0; i < contract::kGroup; ++i) codes[i] = 0;
  *group = {};
  group->scale = magnitude >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
  group->scaled_sum = group->scaled_half_sum[0] = group->scaled_half_sum[1] = group->scale * 0.0f;
}

template <class V>
void quantise(const float* x, int64_t cols, int8_t* codes, ActivationGroup* groups) {
  for (int64_t k = 0; k < cols; k += contract::kGroup, ++groups) {
    const auto low = V::load(x + k);
    const auto high = V::load(x + k + 16);
    const uint32_t magnitude = V::largest_magnitude(low, high);
    const float amax = __builtin_bit_cast(float, magnitude);
    if (magnitude >= 0x7f800000u || amax < contract::kSmallestAmax) {
      quantise_special<V>(magnitude, codes + k, groups);
      continue;
    }
    const auto inverse = V::set(127.0f / amax);
    const auto low_codes = V::round(V::mul(low, inverse));
    const auto high_codes = V::round(V::mul(high, inverse));
    V::store_codes(codes + k, low_codes, high_codes);
    const int32_t sum0 = V::sum_i(low_codes), sum1 = V::sum_i(high_codes);
    const float scale = amax / 127.0f;
    *groups = {scale,
               scale * static_cast<float>(sum0 + sum1),
               {scale * static_cast<float>(sum0), scale * static_cast<float>(sum1)},
               -(sum0 + sum1),
               {-sum0, -sum1}};
  }
}

template <class V>
void rms_norm(const NormTask& task) {
  const int64_t whole = task.cols / 16 * 16;
  const int tail = static_cast<int>(task.cols - whole);
  auto squares = V::zero();
  for (int64_t i = 0; i < whole; i += 16) {
    const auto x = V::load(task.x + i);
    squares = V::fma(x, x, squares);
  }
  if (tail > 0) {
    const auto x = V::load_some(task.x + whole, tail);
    squares = V::fma(x, x, squares);
  }
  const float mean = V::sum(squares) / static_cast<float>(task.cols);
  const auto factor = V::set(1.0f / V::root(mean + task.eps));
  for (int64_t i = 0; i < whole; i += 16)
    V::store(task.out + i, V::mul(V::mul(V::load(task.x + i), factor), V::load(task.weight + i)));
  if (tail == 0) return;
  const auto x = V::load_some(task.x + whole, tail);
  V::store_some(task.out + whole, V::mul(V::mul(x, factor), V::load_some(task.weight + whole, tail)), tail);
}

template <class V>
[[gnu::always_inline]] inline typename V::F silu_times(typename V::F gate, typename V::F up) {
  const auto e = exponential<V>(V::sub(V::zero_minus(), gate));
  return V::mul(V::div(gate, V::add(V::set(1.0f), e)), up);
}

template <class V>
void silu_multiply(const float* gate, const float* up, int64_t count, float* out) {
  const int64_t whole = count / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16)
    V::store(out + i, silu_times<V>(V::load(gate + i), V::load(up + i)));
  const int tail = static_cast<int>(count - whole);
  if (tail > 0)
    V::store_some(out + whole,
                  silu_times<V>(V::load_some(gate + whole, tail), V::load_some(up + whole, tail)), tail);
}

// Written on floats: the pairs of interleaved heads lie beside each other, and the compiler knows how to
// shuffle.
template <class V>
void rotate(const RotateTask& task) {
  float* head = task.head;
  const int64_t step = task.interleaved ? 2 : 1, apart = task.interleaved ? 1 : task.pairs;
  for (int64_t i = 0; i < task.pairs; ++i) {
    const float cos = task.rotations[i].cos, sin = task.rotations[i].sin;
    const float a = head[step * i], b = head[step * i + apart];
    head[step * i] = __builtin_fmaf(a, cos, -(b * sin));
    head[step * i + apart] = __builtin_fmaf(b, cos, a * sin);
  }
}

template <class V, KvType kType>
void store_typed(const StoreTask& task) {
  using Element = typename V::template Stored<kType>;
  auto* keys = reinterpret_cast<Element*>(task.key_tile) + task.lane;
  auto* values = reinterpret_cast<Element*>(task.value_tile) + task.lane * task.head_dim;
  alignas(64) Element rounded[16];
  for (int d = 0; d < task.head_dim; d += 16) {
    const int count = task.head_dim - d < 16 ? task.head_dim - d : 16;
    V::template narrow<kType>(rounded, V::load_some(task.key + d, count));
    for (int i = 0; i < count; ++i) keys[(d + i) * 16] = rounded[i];
    V::template narrow<kType>(rounded, V::load_some(task.value + d, count));
    for (int i = 0; i < count; ++i) values[d + i] = rounded[i];
  }
}

template <class V>
void store_kv(const StoreTask& task) {
  switch (task.type) {
    case KvType::kF32:
      return store_typed<V, KvType::kF32>(task);
    case KvType::kBF16:
      return store_typed<V, KvType::kBF16>(task);
    case KvType::kF16:
      return store_typed<V, KvType::kF16>(task);
  }
}

}  // namespace baton::kernels::cpu::simd
