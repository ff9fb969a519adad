#pragma once

// Constants of the contract's exponential, shared by the scalar form and the vector forms so that they cannot
// drift.
namespace baton::kernels::contract {

inline constexpr float kExpMin = -87.0f;
inline constexpr float kExpMax = 88.0f;
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kRoundMagic = 0x1.8p+23f;  // adding it rounds to an integer in the low mantissa bits
inline constexpr int kRoundMagicBits = 0x4b400000;
inline constexpr float kLn2 = 0x1.62e430p-1f;
inline constexpr float kLn2High = 0x1.62e400p-1f;  // few enough bits that n * kLn2High is exact
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;
// exp(r) on |r| <= ln2/2, highest power first: 1/5040, 1/720, 1/120, 1/24, 1/6, 1/2, 1, 1.
inline constexpr float kExpCoefficients[8] = {
    0x1.a01a02p-13f, 0x1.6c16c2p-10f, 0x1.111112p-7f, 0x1.555556p-5f, 0x1.555556p-3f, 0.5f, 1.0f, 1.0f};
// Groups whose largest magnitude is below this quantise to zeros.
inline constexpr float kSmallestAmax = 0x1p-100f;

}  // namespace baton::kernels::contract
