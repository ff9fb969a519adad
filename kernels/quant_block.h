#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace baton::kernels {

// How a quantised format represents a weight: w = scale[g] * q + min[g], g = the element's group.
// `code_min..code_max` are the values q takes.
struct QuantFormat {
  int group = 0;  // elements that share a scale: 16 or 32
  bool has_min = false;
  int code_min = 0;
  int code_max = 0;
};

// One block of any quantised format, opened into integers and float scales. Every product of the format's own
// scales (d * sc) is rounded to float once here, as gguf-py does, so dequantised values are bit-equal to it.
// Example Q4_K: 256 codes 0..15, scale[g] = d * sc[g], min[g] = -(dmin * m[g]) for the 8 groups of 32.
struct QuantBlock {
  alignas(64) std::array<int8_t, 256> codes;
  std::array<float, 16> scale;
  std::array<float, 16> min;  // zeros where the format has none
  // The K formats once more as they stand in the file: scale[g] = factor * multiplier[g], min[g] = min_factor
  // * min_multiplier[g], factors as fp16 bits. Both products are exact in float.
  uint16_t factor;
  uint16_t min_factor;  // -dmin
  std::array<int8_t, 16> multiplier;
  std::array<int8_t, 16> min_multiplier;
};

constexpr bool is_quantised(DType type) {
  return type != DType::kF32 && type != DType::kF16 && type != DType::kBF16 && type != DType::kF8E4M3;
}

// Scales are an 8-bit integer times one fp16 per block (QuantBlock::multiplier).
constexpr bool has_multipliers(DType type) {
  return type == DType::kQ2_K || type == DType::kQ4_K || type == DType::kQ5_K || type == DType::kQ6_K;
}

// `type` must be quantised.
QuantFormat quant_format(DType type);

// Opens the block at `data` (traits_of(type).bytes bytes).
void open_block(DType type, const std::byte* data, QuantBlock& out);

}  // namespace baton::kernels
