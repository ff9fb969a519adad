#pragma once

#include <bit>
#include <cstdint>

namespace baton::kernels {

// The 8-bit float of checkpoints and of tensor cores: e4m3 without infinities (OCP 8-bit floating point):
// sign, 4 bits of exponent (bias 7), 3 of mantissa; 448 is the largest value, 0x7f and 0xff are NaN.
inline constexpr float kLargestE4m3 = 448.0f;
// Weights of a matrix that share a scale: 128 x 128.
inline constexpr int kFp8Block = 128;

constexpr float e4m3_to_float(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu, exponent = magnitude >> 3, mantissa = magnitude & 7u;
  float value = 0;
  if (magnitude == 0x7fu)
    value = std::bit_cast<float>(0x7fc00000u);
  else if (exponent == 0)
    value = static_cast<float>(mantissa) * 0x1p-9f;
  else
    value = std::bit_cast<float>((exponent + 120u) << 23 | mantissa << 20);
  return (bits & 0x80u) != 0 ? -value : value;
}

// Rounded to nearest even; beyond 448: 448, as cvt.rn.satfinite does. NaN stays one.
constexpr uint8_t float_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448 and up
  if (magnitude >= 0x3c800000u) {                    // normal: 2^-6 and up
    const uint32_t rebased = magnitude - 0x3c000000u;
    return sign | static_cast<uint8_t>((rebased + 0x7ffffu + (rebased >> 20 & 1u)) >> 20);
  }
  // Adding 2^14 leaves the value rounded to a multiple of 2^-9 in the low mantissa bits.
  const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
  return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) - 0x46800000u);
}

}  // namespace baton::kernels
