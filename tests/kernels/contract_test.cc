#include "kernels/cpu/contract.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <numeric>
#include <random>

#include "kernels/dequantize.h"
#include "kernels/float16.h"

// The contract against mathematics in double: it may round, it may not be wrong.
namespace baton::kernels::contract {
namespace {

std::vector<float> normal_floats(uint64_t seed, size_t count) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& v : out) v = normal(random);
  return out;
}

TEST(Contract, TreeSplitsAtTheLargestPowerOfTwoBelow) {
  // Values whose sum in float depends on the order: a big one swallows the small ones it meets.
  const float big = 0x1p24f;
  EXPECT_EQ(sum_tree(std::vector<float>{3}), 3);
  EXPECT_EQ(sum_tree(std::vector<float>{1, 1, big}), 0x1p24f + 2);          // (1 + 1) + big
  EXPECT_EQ(sum_tree(std::vector<float>{big, 1, 1}), big);                  // (big + 1) + 1
  EXPECT_EQ(sum_tree(std::vector<float>{big, 1, 1, 1}), big + 2);           // (big + 1) + (1 + 1)
  EXPECT_EQ(sum_tree(std::vector<float>{1, 1, 1, 1, big}), big + 4);        // 4 + 1
  EXPECT_EQ(sum_tree(std::vector<float>{1, 1, 1, 1, 1, big}), big + 4);     // 4 + (1 + big)
  EXPECT_EQ(sum_tree(std::vector<float>{1, 1, 1, 1, 1, 1, big}), big + 6);  // 4 + ((1 + 1) + big)
}

// A rank that owns a whole sub-tree of shards adds it up alone; the ranks' sums meet in the same tree.
TEST(Contract, RanksOwnSubTrees) {
  const std::vector<float> parts = normal_floats(1, 8);
  for (const int ranks : {2, 4, 8}) {
    std::vector<float> sums;
    for (int r = 0; r < ranks; ++r)
      sums.push_back(sum_tree(std::span(parts).subspan(r * 8 / ranks, 8 / ranks)));
    EXPECT_EQ(sum_tree(sums), sum_tree(parts)) << ranks;
  }
}

TEST(Contract, LanesAreAddedEightThenFourThenTwoApart) {
  std::array<float, kLanes> lanes = {};
  lanes[0] = 0x1p24f;
  lanes[8] = 1;  // meets the big one first: lost
  EXPECT_EQ(sum_lanes(lanes), 0x1p24f);
  lanes[8] = 0;
  lanes[1] = lanes[9] = 1;  // meet each other first: kept
  EXPECT_EQ(sum_lanes(lanes), 0x1p24f + 2);
}

TEST(Contract, QuantisesGroupsOf32) {
  std::vector<float> x(64, 0.0f);
  x[0] = 127.0f;
  x[1] = -126.5f;  // tie: even
  x[2] = 2.5f;     // tie: even
  x[3] = 3.5f;
  x[40] = -0.25f;
  const QuantisedRow row = quantise(x);
  EXPECT_THAT(row.scales, testing::ElementsAre(1.0f, 0.25f / 127.0f));
  EXPECT_EQ(row.codes[0], 127);
  EXPECT_EQ(row.codes[1], -126);
  EXPECT_EQ(row.codes[2], 2);
  EXPECT_EQ(row.codes[3], 4);
  EXPECT_EQ(row.codes[40], -127);
}

TEST(Contract, QuantisesNothingAndPoison) {
  std::vector<float> x(96, 1e-38f);
  x[32] = std::numeric_limits<float>::infinity();
  x[64] = std::nanf("");
  const QuantisedRow row = quantise(x);
  EXPECT_EQ(row.scales[0], 0.0f);
  EXPECT_TRUE(std::isnan(row.scales[1]));
  EXPECT_TRUE(std::isnan(row.scales[2]));
  EXPECT_THAT(row.codes, testing::Each(0));
}

TEST(Contract, QuantisationErrorIsHalfAStep) {
  const std::vector<float> x = normal_floats(2, 32 * 200);
  const QuantisedRow row = quantise(x);
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(row.scales[i / 32] * row.codes[i], x[i], row.scales[i / 32] * 0.5001f);
}

TEST(Contract, ExponentialIsAccurate) {
  double worst = 0;
  for (float x = -86.9f; x < 87.9f; x += 0.0037f)
    worst = std::max(worst, std::abs(exponential(x) / std::exp(static_cast<double>(x)) - 1.0));
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(exponential(0.0f), 1.0f);
  EXPECT_EQ(exponential(-0.0f), 1.0f);
  EXPECT_EQ(exponential(-1000.0f), 0.0f);
  EXPECT_EQ(exponential(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(exponential(1000.0f), exponential(88.0f));
  EXPECT_TRUE(std::isnan(exponential(std::nanf(""))));
}

TEST(Contract, SiluIsAccurate) {
  for (float x = -40.0f; x < 40.0f; x += 0.013f) {
    const double want = x / (1.0 + std::exp(-static_cast<double>(x)));
    ASSERT_NEAR(silu(x), want, std::abs(want) * 5e-7 + 1e-30);
  }
  EXPECT_TRUE(std::isfinite(silu(-3e38f)));
}

TEST(Contract, RotationsFollowTheDoubleAngle) {
  double worst = 0;
  for (int position = 0; position < 200'000; position += 371) {
    for (int i = 0; i < 32; ++i) {
      const double inv_freq = std::pow(1e5, -i / 32.0);
      const Rotation got = rotation(position, inv_freq, 1.0);
      worst = std::max({worst, std::abs(got.cos - std::cos(position * inv_freq)),
                        std::abs(got.sin - std::sin(position * inv_freq))});
    }
  }
  EXPECT_LT(worst, 3.1e-8);  // half a unit in the last place of a float near 1
  EXPECT_EQ(rotation(0, 1.0, 1.5).cos, 1.5f);
  EXPECT_EQ(rotation(0, 1.0, 1.5).sin, 0.0f);
}

TEST(Contract, RotatesPairs) {
  const Rotation quarter = {0.0f, 1.0f};
  std::vector<float> head = {1, 2, 3, 4, 5};
  rotate(head, std::vector<Rotation>{quarter, {1, 0}}, false);
  EXPECT_THAT(head, testing::ElementsAre(-3, 2, 1, 4, 5));
  head = {1, 2, 3, 4, 5};
  rotate(head, std::vector<Rotation>{quarter, {1, 0}}, true);
  EXPECT_THAT(head, testing::ElementsAre(-2, 1, 3, 4, 5));
}

TEST(Contract, NormOfAnyWidth) {
  for (const size_t width : {1, 15, 16, 17, 64, 576, 1000}) {
    const std::vector<float> x = normal_floats(width, width), weight = normal_floats(width + 1, width);
    std::vector<float> out(width);
    rms_norm(x, weight, 1e-5f, out);
    double squares = 0;
    for (float v : x) squares += static_cast<double>(v) * v;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
    for (size_t i = 0; i < width; ++i) ASSERT_NEAR(out[i], x[i] * factor * weight[i], 2e-6) << width;
  }
}

// The integer form equals the product of dequantised weights and dequantised activations, up to float
// rounding.
TEST(Contract, LinearIsTheProductOfWhatTheIntegersMean) {
  std::mt19937_64 random(5);
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ2_K, DType::kQ4_K, DType::kQ5_K,
                           DType::kQ6_K, DType::kIQ2_XXS}) {
    constexpr int64_t kCols = 768;
    std::vector<std::byte> bytes(row_bytes(type, kCols).value());
    const int size = traits_of(type).bytes;
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    const std::vector<int> halves = type == DType::kQ2_K   ? std::vector{80, 82}
                                    : type == DType::kQ6_K ? std::vector{208}
                                                           : std::vector{0, 2};
    const bool two = type != DType::kQ8_0 && type != DType::kQ4_0 && type != DType::kIQ2_XXS;
    for (size_t block = 0; block < bytes.size(); block += size) {
      for (size_t h = 0; h < (two ? halves.size() : 1); ++h) {
        const uint16_t half = float_to_half(0.01f + 0.001f * static_cast<float>(random() % 10));
        std::memcpy(bytes.data() + block + halves[h], &half, 2);
      }
    }
    const WeightView view = {type, bytes.data(), 1, kCols};
    const std::vector<float> x = normal_floats(6, kCols);
    const QuantisedRow codes = quantise(x);
    std::vector<float> w(kCols);
    dequantize_row(type, bytes.data(), w);
    double want = 0, magnitude = 0;
    for (int64_t i = 0; i < kCols; ++i) {
      want += static_cast<double>(w[i]) * codes.scales[i / 32] * codes.codes[i];
      magnitude += std::abs(static_cast<double>(w[i]) * x[i]);
    }
    for (const int shards : {1, 2, 3, 4, 6, 8})
      EXPECT_NEAR(linear_quantised(view, 0, codes, shards), want, magnitude * 1e-6) << traits_of(type).name;
  }
}

TEST(Contract, AttentionIsASoftmaxOverAnyNumberOfChunks) {
  constexpr size_t kDim = 20;
  const std::vector<float> keys = normal_floats(7, 1100 * kDim), values = normal_floats(8, 1100 * kDim);
  std::vector<float> q = normal_floats(9, kDim);
  for (float& v : q) v *= 3;
  for (const auto& [first, last] :
       std::vector<std::pair<int, int>>{{0, 0}, {0, 255}, {0, 256}, {200, 600}, {3, 1099}}) {
    std::vector<float> out(kDim);
    attend(q, {keys, values, first, last}, 0.2f, out);
    std::vector<double> weights, want(kDim, 0.0);
    for (int j = first; j <= last; ++j) {
      const double score = std::inner_product(q.begin(), q.end(), keys.begin() + j * kDim, 0.0);
      weights.push_back(std::exp(0.2 * score));
    }
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int j = first; j <= last; ++j)
      for (size_t d = 0; d < kDim; ++d) want[d] += weights[j - first] / total * values[j * kDim + d];
    for (size_t d = 0; d < kDim; ++d) ASSERT_NEAR(out[d], want[d], 3e-6) << first << ".." << last;
  }
}

}  // namespace
}  // namespace baton::kernels::contract
