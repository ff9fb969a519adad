#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/cpu/contract.h"
#include "kernels/dequantize.h"
#include "kernels/quant_block.h"
#include "kernels/weight_slice.h"

// Ranks that hold columns or rows of a matrix have together the bits of one that holds it all.
namespace baton::kernels {
namespace {

constexpr int64_t kOutputs = 48, kInputs = 1024;
constexpr int kShards = 4, kMaxRows = 9;

std::vector<std::byte> random_matrix(DType type, Rng& rng) {
  std::vector<std::byte> out(kOutputs * row_bytes(type, kInputs).value());
  for (std::byte& b : out) b = static_cast<std::byte>(rng.below(256));
  const auto size = static_cast<size_t>(traits_of(type).bytes);
  if (!is_quantised(type)) {  // values around one: exponent bits of no infinity, no denormal
    for (size_t i = size - 1; i < out.size(); i += size)
      out[i] = (out[i] & std::byte{0x80}) | std::byte{0x3c};
    return out;
  }
  for (size_t block = 0; block < out.size(); block += size)
    for (const size_t at : {0, 2, 80, 82, 208})  // wherever a format may have an fp16 scale
      if (at + 1 < size) out[block + at + 1] &= std::byte{0xbb};
  return out;
}

class RankParts : public testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  RankParts() {
    const auto& [device, threads] = GetParam();
    backend_ = make_backend({.device = device, .threads = threads, .numerics = Numerics::kFloat}).value();
    EXPECT_TRUE(backend_->set_attention({1, 1, 8, 1.0f, 0}, {}).ok());
    EXPECT_TRUE(backend_->attach_kv(pool_, {1, 1, 8, 16, KvType::kF32, 1}).ok());
    for (int i = 0; i < kMaxRows; ++i) positions_.push_back(i);
    x_ = floats(kMaxRows * kInputs), bias_ = floats(kOutputs), residual_ = floats(kMaxRows * kOutputs);
  }
  std::vector<float> floats(size_t count) {
    std::vector<float> out(count);
    for (float& v : out) v = static_cast<float>(rng_.next_double() * 2 - 1);
    return out;
  }
  void begin(int rows) {
    sequences_ = {{0, rows, 0, blocks_}};
    rows_ = rows;
    backend_->begin_step({std::span(tokens_).first(rows), std::span(positions_).first(rows), sequences_, {}});
  }
  std::vector<float> whole(const WeightView& w) {
    const auto linear = backend_->make_linear({{w}, bias_, kShards}).value();
    std::vector<float> out = residual_;
    begin(rows_);
    backend_->run_together([&] { backend_->linear_add(*linear, x_.data(), out.data()); });
    return out;
  }
  // Columns [first, first + count) of x, as a rank would have computed them.
  std::vector<float> columns_of_x(int64_t first, int64_t count) const {
    std::vector<float> out;
    for (int r = 0; r < rows_; ++r) {
      const float* row = x_.data() + r * kInputs + first;
      out.insert(out.end(), row, row + count);
    }
    return out;
  }
  std::vector<float> by_inputs(const WeightView& w, int ranks) {
    const int64_t count = kInputs / ranks;
    std::vector<std::vector<float>> parts;
    for (int r = 0; r < ranks; ++r) {
      const WeightView part = columns_of(w, r * count, count).value();
      const auto linear = backend_->make_linear({{part}, {}, kShards / ranks}).value();
      const std::vector<float> x = columns_of_x(r * count, count);
      parts.emplace_back(rows_ * kOutputs);
      begin(rows_);
      backend_->run_together([&] { backend_->linear_part(*linear, x.data(), parts.back().data()); });
    }
    std::vector<float> sum(rows_ * kOutputs), out = residual_;
    for (size_t i = 0; i < sum.size(); ++i) {
      std::vector<float> leaves;
      for (const auto& part : parts) leaves.push_back(part[i]);
      sum[i] = contract::sum_tree(leaves);
    }
    backend_->run_together([&] { backend_->add_rows({rows_, kOutputs, sum.data(), bias_, out.data()}); });
    return out;
  }
  std::vector<float> by_outputs(const WeightView& w, int ranks) {
    const int64_t count = kOutputs / ranks;
    std::vector<float> gathered(rows_ * kOutputs), joined(rows_ * kOutputs), out = residual_;
    for (int r = 0; r < ranks; ++r) {
      const std::vector<float> bias(bias_.begin() + r * count, bias_.begin() + (r + 1) * count);
      const auto linear = backend_->make_linear({{rows_of(w, r * count, count)}, bias, kShards}).value();
      begin(rows_);
      backend_->run_together(
          [&] { backend_->linear_part(*linear, x_.data(), gathered.data() + r * rows_ * count); });
    }
    backend_->run_together([&] {
      backend_->join_rows({ranks, rows_, count, gathered.data(), joined.data()});
      backend_->add_rows({rows_, kOutputs, joined.data(), {}, out.data()});
    });
    return out;
  }

  Rng rng_{20};  // fixed: a failure replays
  std::unique_ptr<Backend> backend_;
  std::vector<std::byte> pool_ = std::vector<std::byte>(1 << 14);
  const std::vector<BlockId> blocks_ = {BlockId(0)};
  const std::vector<TokenId> tokens_ = std::vector<TokenId>(kMaxRows, 0);
  std::vector<int32_t> positions_;
  std::vector<SequenceRows> sequences_;
  std::vector<float> x_, bias_, residual_;
  int rows_ = 1;
};

TEST_P(RankParts, HaveTheBitsOfTheWhole) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,
                           DType::kQ2_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ2_XXS}) {
    const std::vector<std::byte> bytes = random_matrix(type, rng_);
    const WeightView w = {type, bytes.data(), kOutputs, kInputs};
    for (const int rows : {1, kMaxRows}) {
      rows_ = rows;
      const std::vector<float> expected = whole(w);
      for (const int ranks : {2, 4}) {
        SCOPED_TRACE(std::string(traits_of(type).name) + " over " + std::to_string(ranks));
        const size_t size = rows * kOutputs * sizeof(float);
        EXPECT_EQ(std::memcmp(by_inputs(w, ranks).data(), expected.data(), size), 0);
        EXPECT_EQ(std::memcmp(by_outputs(w, ranks).data(), expected.data(), size), 0);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, RankParts,
                         testing::Values(std::tuple("cpu", 1), std::tuple("cpu", 3),
                                         std::tuple("reference", 1)));

TEST(WeightSlice, RefusesToCutABlock) {
  const std::vector<std::byte> bytes(4 * row_bytes(DType::kQ4_K, 1024).value());
  const WeightView w = {DType::kQ4_K, bytes.data(), 4, 1024};
  EXPECT_FALSE(columns_of(w, 128, 256).ok());
  EXPECT_FALSE(columns_of(w, 256, 128).ok());
  const WeightView part = columns_of(w, 256, 512).value();
  EXPECT_EQ(part.data, bytes.data() + 144);
  EXPECT_EQ(part.row_stride, 4u * 144);
  EXPECT_TRUE(check_weight(part).ok());
  EXPECT_EQ(rows_of(part, 2, 1).data, bytes.data() + 2 * 4 * 144 + 144);
  EXPECT_FALSE(check_weight({DType::kQ4_K, bytes.data(), 4, 1024, 100}).ok());
}

}  // namespace
}  // namespace baton::kernels
