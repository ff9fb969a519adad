#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/exponential.h"
#include "kernels/cpu/simd/quantise.h"

// Loops over one row of activations, 16 lanes at a time.
namespace baton::kernels::cpu::simd {

template <class V>
void round_brain(const float* x, int64_t cols, uint16_t* out) {
  const int64_t whole = cols / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) V::template narrow<KvType::kBF16>(out + i, V::load(x + i));
  if (whole == cols) return;
  alignas(32) uint16_t tail[16];
  V::template narrow<KvType::kBF16>(tail, V::load_some(x + whole, static_cast<int>(cols - whole)));
  for (int64_t i = whole; i < brain_stride(cols); ++i) out[i] = tail[i - whole];
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

template <class V>
void rotate_neighbours(const RotateTask& task) {
  for (int64_t i = 0; i < task.pairs; ++i) {
    const float a = task.head[2 * i], b = task.head[2 * i + 1];
    task.head[2 * i] = __builtin_fmaf(a, task.cos[i], -(b * task.sin[i]));
    task.head[2 * i + 1] = __builtin_fmaf(b, task.cos[i], a * task.sin[i]);
  }
}

template <class V>
void rotate(const RotateTask& task) {
  if (task.interleaved) return rotate_neighbours<V>(task);
  for (int64_t i = 0; i < task.pairs; i += 16) {
    const int64_t left = task.pairs - i;
    const int lanes = left < 16 ? static_cast<int>(left) : 16;
    const auto cos = V::load_some(task.cos + i, lanes), sin = V::load_some(task.sin + i, lanes);
    float *low = task.head + i, *high = task.head + task.pairs + i;
    const auto a = V::load_some(low, lanes), b = V::load_some(high, lanes);
    V::store_some(low, V::fma(a, cos, V::sub(V::zero_minus(), V::mul(b, sin))), lanes);
    V::store_some(high, V::fma(b, cos, V::mul(a, sin)), lanes);
  }
}

// 64 elements are rounded before they are spread over the tile, so that no load waits for the store before
// it.
inline constexpr int kRoundedTogether = 64;

template <class V, KvType kType>
void round_some(const float* from, int count, typename V::template Stored<kType>* rounded) {
  for (int d = 0; d < count; d += 16)
    V::template narrow<kType>(rounded + d, V::load_some(from + d, count - d < 16 ? count - d : 16));
}

// Keys of bf16 lie in pairs: a word each.
template <KvType kType, class Element>
[[gnu::always_inline]] inline void spread_keys(const Element* rounded, int count, Element* keys) {
  if constexpr (kType == KvType::kBF16) {
    for (int d = 0; d < count; d += 2) __builtin_memcpy(keys + key_index(kType, 0, d), rounded + d, 4);
  } else {
    for (int d = 0; d < count; ++d) keys[key_index(kType, 0, d)] = rounded[d];
  }
}

template <class V, KvType kType>
void store_typed(const StoreTask& task) {
  using Element = typename V::template Stored<kType>;
  auto* keys = reinterpret_cast<Element*>(task.key_tile) + key_index(kType, task.lane, 0);
  auto* values =
      reinterpret_cast<Element*>(task.value_tile) + value_index(kType, task.lane, 0, task.head_dim);
  constexpr int64_t kValueStep = value_index(kType, 0, 1, 2);
  alignas(64) Element key[kRoundedTogether], value[kRoundedTogether];
  for (int d = 0; d < task.head_dim; d += kRoundedTogether) {
    const int left = task.head_dim - d, count = left < kRoundedTogether ? left : kRoundedTogether;
    round_some<V, kType>(task.key + d, count, key);
    round_some<V, kType>(task.value + d, count, value);
    spread_keys<kType>(key, count, keys + key_index(kType, 0, d));
    for (int i = 0; i < count; ++i) values[(d + i) * kValueStep] = value[i];
  }
}

inline constexpr int kMaxHeadDim = 1024;

// codes[head_dim], and zeros up to a multiple of 32; returns the scale. contract::quantise_head.
template <class V>
float quantise_head(const float* x, int head_dim, int8_t* codes) {
  const auto some = [&](int d) {
    return d >= head_dim ? V::zero() : V::load_some(x + d, head_dim - d < 16 ? head_dim - d : 16);
  };
  uint32_t magnitude = 0;
  for (int d = 0; d < head_dim; d += 32) {
    const uint32_t largest = V::largest_magnitude(some(d), some(d + 16));
    magnitude = largest > magnitude ? largest : magnitude;
  }
  const float amax = __builtin_bit_cast(float, magnitude);
  const bool special = magnitude >= 0x7f800000u || amax < contract::kSmallestAmax;
  const auto inverse = V::set(special ? 0.0f : 127.0f / amax);
  for (int d = 0; d < head_dim; d += 32) {
    if (special) {
      for (int i = 0; i < 32; ++i) codes[d + i] = 0;
    } else {
      V::store_codes(codes + d, V::round(V::mul(some(d), inverse)), V::round(V::mul(some(d + 16), inverse)));
    }
  }
  if (special) return magnitude >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
  return amax / 127.0f;
}

template <class V>
void store_codes_kv(const StoreTask& task) {
  alignas(64) int8_t codes[kMaxHeadDim];
  const int64_t scales = code_bytes(task.head_dim);
  const auto put_scale = [&](std::byte* tile, float scale) {
    __builtin_memcpy(tile + scales + task.lane * sizeof scale, &scale, sizeof scale);
  };
  put_scale(task.key_tile, quantise_head<V>(task.key, task.head_dim, codes));
  for (int d = 0; d < task.head_dim; d += 4) {
    uint32_t word;
    __builtin_memcpy(&word, codes + d, sizeof word);
    word ^= 0x80808080u;  // code + 128
    __builtin_memcpy(task.key_tile + d * 16 + task.lane * 4, &word, sizeof word);
  }
  put_scale(task.value_tile, quantise_head<V>(task.value, task.head_dim, codes));
  __builtin_memcpy(task.value_tile + task.lane * task.head_dim, codes, task.head_dim);
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
    case KvType::kInt8:
      return store_codes_kv<V>(task);
  }
}

}  // namespace baton::kernels::cpu::simd
