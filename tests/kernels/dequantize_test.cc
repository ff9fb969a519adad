#include "kernels/dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/float16.h"
#include "kernels/quant_block.h"

namespace baton::kernels {
namespace {

// Eight blocks of pseudo-random bytes, the same as gguf-py was given, with the block's half-precision numbers
// (at `halves`) brought into 2^-8 .. 2.
struct Golden {
  DType type;
  std::vector<int> halves;
  uint64_t fnv;                 // FNV-1a of the little-endian floats gguf-py 0.19 made of them
  std::array<float, 3> values;  // element 0, 1 and the last
};

std::vector<Golden> goldens() {
  return {
      {DType::kQ8_0, {0}, 0x9846e04ee9e055b6ull, {-0x1.2f78p+3f, 0x1.7b56p+5f, -0x1.83dep+4f}},
      {DType::kQ4_0, {0}, 0x2d2d1fb24116e2d4ull, {0x1.b100p-3f, -0x1.0ea0p-3f, 0x1.f630p-2f}},
      {DType::kQ4_1, {0, 2}, 0xea82aa762bc148c9ull, {0x1.d9e0p+0f, 0x1.a0c0p-2f, -0x1.bb28p-1f}},
      {DType::kQ2_K, {80, 82}, 0x5aa334e18cbd1785ull, {0x1.0a00p+1f, 0x1.23c58p+1f, -0x1.1a68p+0f}},
      {DType::kQ4_K, {0, 2}, 0x5bb61584a9884996ull, {-0x1.db638p+4f, -0x1.d9dbcp+5f, -0x1.55408p+2f}},
      {DType::kQ5_K, {0, 2}, 0x6b90c8777d80bc5full, {0x1.134d4p+3f, 0x1.5ad4ap+4f, 0x1.8153fp+8f}},
      {DType::kQ6_K, {208}, 0x17e7f349dc9f072aull, {-0x1.dceep+2f, -0x1.dceep-1f, 0x1.90bc2p+2f}},
      {DType::kIQ2_XXS, {0}, 0xa26a909edae559c7ull, {0x1.af07cp-3f, -0x1.13dcp-4f, -0x1.fb2d8p+1f}},
  };
}

std::vector<std::byte> blocks_of(const Golden& golden) {
  const DTypeTraits traits = traits_of(golden.type);
  std::vector<std::byte> bytes(8 * traits.bytes);
  uint64_t state = static_cast<uint64_t>(golden.type);
  for (std::byte& b : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    b = static_cast<std::byte>(state >> 56);
  }
  for (int block = 0; block < 8; ++block) {
    for (int at : golden.halves) {
      uint16_t half;
      std::memcpy(&half, bytes.data() + block * traits.bytes + at, 2);
      half = static_cast<uint16_t>((half & 0x83ff) | ((7 + ((half >> 10) & 7)) << 10));
      std::memcpy(bytes.data() + block * traits.bytes + at, &half, 2);
    }
  }
  return bytes;
}

uint64_t fnv_of(std::span<const float> values) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const std::byte b : std::as_bytes(values)) hash = (hash ^ static_cast<uint8_t>(b)) * 0x100000001b3u;
  return hash;
}

TEST(Dequantize, EqualsGgufPyBitForBit) {
  for (const Golden& golden : goldens()) {
    const DTypeTraits traits = traits_of(golden.type);
    std::vector<float> out(8 * traits.elements);
    dequantize_row(golden.type, blocks_of(golden).data(), out);
    EXPECT_EQ(out[0], golden.values[0]) << traits.name;
    EXPECT_EQ(out[1], golden.values[1]) << traits.name;
    EXPECT_EQ(out.back(), golden.values[2]) << traits.name;
    EXPECT_EQ(fnv_of(out), golden.fnv) << traits.name;
  }
}

TEST(Dequantize, CodesStayInTheFormatsRange) {
  for (const Golden& golden : goldens()) {
    const DTypeTraits traits = traits_of(golden.type);
    const QuantFormat format = quant_format(golden.type);
    const std::vector<std::byte> bytes = blocks_of(golden);
    QuantBlock block;
    for (int b = 0; b < 8; ++b) {
      open_block(golden.type, bytes.data() + b * traits.bytes, block);
      for (int e = 0; e < traits.elements; ++e) {
        EXPECT_GE(block.codes[e], format.code_min) << traits.name;
        EXPECT_LE(block.codes[e], format.code_max) << traits.name;
      }
    }
  }
}

TEST(Dequantize, FloatTypes) {
  const std::vector<float> values = {0.0f, -1.5f, 3.0e-6f, 65504.0f};
  std::vector<uint16_t> halves, brains;
  for (float v : values) {
    halves.push_back(float_to_half(v));
    brains.push_back(float_to_bfloat16(v));
  }
  std::vector<float> out(4);
  dequantize_row(DType::kF32, std::as_bytes(std::span(values)).data(), out);
  EXPECT_EQ(out, values);
  dequantize_row(DType::kF16, std::as_bytes(std::span(halves)).data(), out);
  EXPECT_THAT(out, testing::ElementsAre(0.0f, -1.5f, 50 * 0x1p-24f, 65504.0f));
  dequantize_row(DType::kBF16, std::as_bytes(std::span(brains)).data(), out);
  EXPECT_THAT(out, testing::ElementsAre(0.0f, -1.5f, 0x1.92p-19f, 65536.0f));
}

TEST(Dequantize, RefusesBrokenShapes) {
  EXPECT_EQ(row_bytes(DType::kQ4_K, 512).value(), 288u);
  EXPECT_EQ(row_bytes(DType::kF16, 5).value(), 10u);
  EXPECT_FALSE(row_bytes(DType::kQ4_K, 32).ok());
  EXPECT_FALSE(row_bytes(DType::kQ8_0, 0).ok());
  EXPECT_FALSE(row_bytes(DType::kQ8_0, -32).ok());
  const std::byte b{};
  EXPECT_TRUE(check_weight({DType::kQ8_0, &b, 1, 32}).ok());
  EXPECT_FALSE(check_weight({DType::kQ8_0, nullptr, 1, 32}).ok());
  EXPECT_FALSE(check_weight({DType::kQ8_0, &b, 0, 32}).ok());
}

// All 65,536 halves go to float and back unchanged; floats round to the nearest half, ties to even.
TEST(Float16, RoundTripsAndRounds) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      ASSERT_EQ(float_to_half(value), half) << bits;
      ASSERT_EQ(value, static_cast<float>(std::bit_cast<_Float16>(half))) << bits;
    }
    const float brain = bfloat16_to_float(half);
    if (!std::isnan(brain)) {
      ASSERT_EQ(float_to_bfloat16(brain), half);
    }
  }
  uint32_t state = 1;
  for (int i = 0; i < 2'000'000; ++i) {
    state = state * 1664525 + 1013904223;
    const float value = std::bit_cast<float>(state);
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_half(value), std::bit_cast<uint16_t>(static_cast<_Float16>(value))) << value;
  }
  EXPECT_EQ(float_to_bfloat16(1.00390625f), 0x3f80);  // tie: even
  EXPECT_EQ(float_to_bfloat16(1.01171875f), 0x3f82);  // tie: even
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::nanf("")))));
}

TEST(KShards, LoweredUntilSegmentsAreWholeGroups) {
  EXPECT_EQ(k_shards_for(3, 576), 3);
  EXPECT_EQ(k_shards_for(3, 1536), 3);
  EXPECT_EQ(k_shards_for(8, 2048), 8);
  EXPECT_EQ(k_shards_for(32, 4096), 8);
  EXPECT_EQ(k_shards_for(5, 896), 2);
  EXPECT_EQ(k_shards_for(4, 172), 1);
  EXPECT_EQ(k_shards_for(1, 64), 1);
}

}  // namespace
}  // namespace baton::kernels
