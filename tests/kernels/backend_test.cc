#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "kernels/dequantize.h"
#include "kernels/float16.h"

// What every backend promises: refusals with a reason, and operations that follow double arithmetic.
namespace baton::kernels {
namespace {

using testing::HasSubstr;

std::unique_ptr<Backend> backend_named(const std::string& device, int threads = 1) {
  auto backend = make_backend({.device = device, .threads = threads});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

TEST(MakeBackend, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(std::string(make_backend({.device = "tpu"}).status().message()), HasSubstr("tpu"));
  EXPECT_FALSE(make_backend({.threads = 0}).ok());
  EXPECT_FALSE(make_backend({.threads = 100000}).ok());
  EXPECT_FALSE(make_backend({.isa_limit = "mmx"}).ok());
}

TEST(MakeBackend, NumericsIdNamesBitsNotMachines) {
  std::set<std::string> ids;
  for (const char* limit : {"scalar", "avx2", "avx2-vnni", "avx512", ""}) {
    auto backend = make_backend({.threads = 2, .isa_limit = limit});
    ASSERT_TRUE(backend.ok());
    ids.insert((*backend)->numerics_id(KvType::kBF16));
    EXPECT_THAT((*backend)->description(), HasSubstr("2 threads"));
  }
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_FALSE(ids.contains(backend_named("reference")->numerics_id(KvType::kBF16)));
}

class AnyBackend : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> backend_ = backend_named(GetParam());
  const std::vector<std::byte> bytes_ = std::vector<std::byte>(1 << 16);
  WeightView view(DType type, int64_t rows, int64_t cols) const { return {type, bytes_.data(), rows, cols}; }
};

TEST_P(AnyBackend, RefusesWrongLinears) {
  EXPECT_FALSE(backend_->make_linear({}).ok());
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 33)}, {}, 1}).ok());
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 32), view(DType::kQ8_0, 4, 64)}, {}, 1}).ok());
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 32)}, {1, 2, 3}, 1}).ok());
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 96)}, {}, 2}).ok());  // 48 is not whole groups
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 96)}, {}, 0}).ok());
  EXPECT_FALSE(backend_->make_linear({{view(DType::kQ8_0, 4, 32 * 9)}, {}, 9}).ok());
  const auto linear = backend_->make_linear({{view(DType::kQ8_0, 4, 96), view(DType::kF16, 3, 96)}, {}, 3});
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ((*linear)->rows(), 7);
  EXPECT_EQ((*linear)->cols(), 96);
  EXPECT_GT((*linear)->bytes(), 4u * 96);
  EXPECT_FALSE(backend_->make_embedding({DType::kQ4_K, bytes_.data(), 3, 100}).ok());
}

TEST_P(AnyBackend, RefusesWrongAttentionAndKv) {
  EXPECT_FALSE(backend_->set_attention({.heads = 5, .kv_heads = 2, .head_dim = 8, .scale = 1}, {}).ok());
  EXPECT_FALSE(backend_->set_attention({.heads = 4, .kv_heads = 2, .head_dim = 0, .scale = 1}, {}).ok());
  EXPECT_FALSE(backend_->set_attention({.heads = 4, .kv_heads = 2, .head_dim = 8, .scale = NAN}, {}).ok());
  EXPECT_FALSE(backend_
                   ->set_attention({.heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 1},
                                   {.inv_freq = {1, 1, 1, 1, 1}})
                   .ok());
  std::vector<std::byte> pool(1 << 16);
  KvGeometry geometry = {.layers = 1, .kv_heads = 2, .head_dim = 8, .type = KvType::kF32, .blocks = 4};
  EXPECT_EQ(backend_->attach_kv(pool, geometry).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(backend_->set_attention({.heads = 4, .kv_heads = 2, .head_dim = 8, .scale = 1}, {}).ok());
  EXPECT_FALSE(backend_->attach_kv(std::span(pool).first(100), geometry).ok());
  geometry.head_dim = 16;
  EXPECT_FALSE(backend_->attach_kv(pool, geometry).ok());
  geometry.head_dim = 8;
  geometry.blocks = 0;
  EXPECT_FALSE(backend_->attach_kv(pool, geometry).ok());
  geometry.blocks = 4;
  EXPECT_TRUE(backend_->attach_kv(pool, geometry).ok());
}

TEST_P(AnyBackend, AllocatesZeroedAlignedMemory) {
  for (const size_t floats : {0, 1, 100, 1 << 20}) {
    float* p = backend_->allocate(floats);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    for (size_t i = 0; i < floats; ++i) ASSERT_EQ(p[i], 0.0f);
  }
}

TEST_P(AnyBackend, BrokenStepsEndTheProcess) {
  std::vector<std::byte> pool(1 << 16);
  ASSERT_TRUE(backend_->set_attention({.heads = 1, .kv_heads = 1, .head_dim = 8, .scale = 1}, {}).ok());
  ASSERT_TRUE(
      backend_
          ->attach_kv(pool, {.layers = 1, .kv_heads = 1, .head_dim = 8, .type = KvType::kF32, .blocks = 4})
          .ok());
  const std::vector<TokenId> tokens = {0, 0};
  const std::vector<int32_t> positions = {0, 1}, wrong = {0, 2}, logits = {7};
  const std::vector<BlockId> blocks = {BlockId(1)}, outside = {BlockId(4)};
  const std::vector<SequenceRows> good = {{0, 2, 0, blocks}}, bad = {{0, 2, 0, outside}},
                                  far = {{0, 2, 15, blocks}};
  backend_->begin_step({tokens, positions, good, {}});
  EXPECT_DEATH(backend_->begin_step({tokens, wrong, good, {}}), "CHECK failed");
  EXPECT_DEATH(backend_->begin_step({tokens, positions, bad, {}}), "CHECK failed");
  EXPECT_DEATH(backend_->begin_step({tokens, positions, far, {}}), "CHECK failed");
  EXPECT_DEATH(backend_->begin_step({tokens, positions, good, logits}), "CHECK failed");
}

// --- Against double
// -----------------------------------------------------------------------------------------------

struct Tiny {
  static constexpr int kHidden = 64, kHeads = 4, kKvHeads = 2, kDim = 16, kFfn = 48, kVocabulary = 50;
  static constexpr int kWidth = (kHeads + 2 * kKvHeads) * kDim;
  std::vector<std::vector<float>> storage;
  std::mt19937_64 random{42};

  std::vector<float> floats(size_t count, float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> out(count);
    for (float& v : out) v = normal(random);
    return out;
  }
  WeightView weight(int rows, int cols) {
    storage.push_back(floats(static_cast<size_t>(rows) * cols, 0.2f));
    return {DType::kF32, std::as_bytes(std::span(storage.back())).data(), rows, cols};
  }
};

std::vector<double> exact_linear(const WeightView& w, const std::vector<double>& x) {
  std::vector<float> row(w.cols);
  std::vector<double> out;
  for (int64_t r = 0; r < w.rows; ++r) {
    dequantize_row(w.type, w.data + r * w.cols * 4, row);
    double sum = 0;
    for (int64_t c = 0; c < w.cols; ++c) sum += x[c] * row[c];
    out.push_back(sum);
  }
  return out;
}

std::vector<double> exact_norm(const std::vector<float>& weight, float eps, const float* x) {
  double squares = 0;
  for (size_t i = 0; i < weight.size(); ++i) squares += static_cast<double>(x[i]) * x[i];
  const double factor = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + eps);
  std::vector<double> out;
  for (size_t i = 0; i < weight.size(); ++i) out.push_back(x[i] * factor * weight[i]);
  return out;
}

// The rotation of one head in double (half-split pairs over the whole head).
void exact_rotate(double* head, int dim, int position, const std::vector<double>& inv_freq) {
  for (int i = 0; i < dim / 2; ++i) {
    const double c = std::cos(position * inv_freq[i]), s = std::sin(position * inv_freq[i]);
    const double a = head[i], b = head[i + dim / 2];
    head[i] = a * c - b * s;
    head[i + dim / 2] = a * s + b * c;
  }
}

TEST_P(AnyBackend, LinearNormAndGateFollowDouble) {
  Tiny t;
  std::vector<std::byte> pool(1 << 20);
  ASSERT_TRUE(backend_->set_attention({Tiny::kHeads, Tiny::kKvHeads, Tiny::kDim, 0.25f, 0}, {}).ok());
  ASSERT_TRUE(backend_->attach_kv(pool, {1, Tiny::kKvHeads, Tiny::kDim, 16, KvType::kF32, 4}).ok());
  const WeightView gate = t.weight(Tiny::kFfn, Tiny::kHidden), up = t.weight(Tiny::kFfn, Tiny::kHidden);
  const WeightView down = t.weight(Tiny::kHidden, Tiny::kFfn);
  const std::vector<float> bias = t.floats(Tiny::kHidden, 1), norm = t.floats(Tiny::kHidden, 1);
  const auto gate_up = backend_->make_linear({{gate, up}, {}, 1}).value();
  const auto back = backend_->make_linear({{down}, bias, 1}).value();
  const int rows = 3;
  const std::vector<TokenId> tokens(rows, 0);
  const std::vector<int32_t> positions = {0, 1, 2};
  const std::vector<BlockId> blocks = {BlockId(2)};
  const std::vector<SequenceRows> sequences = {{0, rows, 0, blocks}};
  const std::vector<float> x = t.floats(rows * Tiny::kHidden, 1);
  std::vector<float> h(rows * Tiny::kFfn), residual = x;
  backend_->begin_step({tokens, positions, sequences, {}});
  backend_->gate_up({norm, 1e-5f}, *gate_up, x.data(), h.data());
  backend_->linear_add(*back, h.data(), residual.data());
  for (int r = 0; r < rows; ++r) {
    const std::vector<double> n = exact_norm(norm, 1e-5f, x.data() + r * Tiny::kHidden);
    const std::vector<double> g = exact_linear(gate, n), u = exact_linear(up, n);
    std::vector<double> want;
    for (int i = 0; i < Tiny::kFfn; ++i) want.push_back(g[i] / (1 + std::exp(-g[i])) * u[i]);
    for (int i = 0; i < Tiny::kFfn; ++i) ASSERT_NEAR(h[r * Tiny::kFfn + i], want[i], 2e-5);
    const std::vector<double> y = exact_linear(down, want);
    for (int i = 0; i < Tiny::kHidden; ++i)
      ASSERT_NEAR(residual[r * Tiny::kHidden + i], x[r * Tiny::kHidden + i] + y[i] + bias[i], 5e-5);
  }
}

TEST_P(AnyBackend, RopeAndAttentionFollowDouble) {
  Tiny t;
  RopeSpec rope;
  for (int i = 0; i < Tiny::kDim / 2; ++i) rope.inv_freq.push_back(std::pow(1e4, -2.0 * i / Tiny::kDim));
  std::vector<std::byte> pool(1 << 20);
  ASSERT_TRUE(backend_->set_attention({Tiny::kHeads, Tiny::kKvHeads, Tiny::kDim, 0.25f, 0}, rope).ok());
  ASSERT_TRUE(backend_->attach_kv(pool, {1, Tiny::kKvHeads, Tiny::kDim, 16, KvType::kF32, 40}).ok());
  const int rows = 300;  // more than a chunk
  std::vector<BlockId> blocks;
  for (uint32_t b = 0; b < 19; ++b) blocks.push_back(BlockId(37 - 2 * b));
  std::vector<TokenId> tokens(rows, 0);
  std::vector<int32_t> positions(rows);
  for (int i = 0; i < rows; ++i) positions[i] = i;
  const std::vector<SequenceRows> sequences = {{0, rows, 0, blocks}};
  const std::vector<float> source = t.floats(rows * Tiny::kWidth, 1);
  std::vector<float> qkv = source, out(rows * Tiny::kHeads * Tiny::kDim);
  backend_->begin_step({tokens, positions, sequences, {}});
  backend_->rope_store(0, nullptr, nullptr, qkv.data());
  backend_->attention(0, qkv.data(), out.data());
  std::vector<double> exact(source.begin(), source.end());
  for (int r = 0; r < rows; ++r)
    for (int h = 0; h < Tiny::kHeads + Tiny::kKvHeads; ++h)
      exact_rotate(exact.data() + r * Tiny::kWidth + h * Tiny::kDim, Tiny::kDim, r, rope.inv_freq);
  for (const int r : {0, 1, 17, 255, 256, 299}) {
    for (int h = 0; h < Tiny::kHeads; ++h) {
      const double* q = exact.data() + r * Tiny::kWidth + h * Tiny::kDim;
      const int k_at = (Tiny::kHeads + h / 2) * Tiny::kDim, v_at = k_at + Tiny::kKvHeads * Tiny::kDim;
      double total = 0;
      std::vector<double> want(Tiny::kDim, 0.0);
      for (int j = 0; j <= r; ++j) {
        double score = 0;
        for (int d = 0; d < Tiny::kDim; ++d) score += q[d] * exact[j * Tiny::kWidth + k_at + d];
        const double p = std::exp(0.25 * score);
        total += p;
        for (int d = 0; d < Tiny::kDim; ++d) want[d] += p * exact[j * Tiny::kWidth + v_at + d];
      }
      for (int d = 0; d < Tiny::kDim; ++d)
        ASSERT_NEAR(out[(r * Tiny::kHeads + h) * Tiny::kDim + d], want[d] / total, 1e-5) << r << " " << h;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, AnyBackend, testing::Values("cpu", "reference"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace baton::kernels
