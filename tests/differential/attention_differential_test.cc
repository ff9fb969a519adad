#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/differential/oracle_backend.h"
#include "tests/differential/random_model.h"

// Rope, KV and attention of CpuBackend against the contract, bit for bit.
namespace baton::kernels {
namespace {

struct Shape {
  int head_dim;
  int kv_heads;
  int share;
  KvType type;
  int block_tokens;
  int window;
  bool interleaved;
  bool head_norm;
  Numerics numerics = Numerics::kFloat;
};

constexpr int kLayers = 2;

struct Model {
  AttentionSpec attention;
  RopeSpec rope;
  KvGeometry geometry;
  std::vector<float> norm;
  bool head_norm = false;
  int64_t width() const { return int64_t{attention.heads + 2 * attention.kv_heads} * attention.head_dim; }
};

Model make_model(RandomModel& random, const Shape& s, int64_t blocks) {
  Model m;
  m.attention = {s.kv_heads * s.share, s.kv_heads, s.head_dim,
                 1.0f / std::sqrt(static_cast<float>(s.head_dim)), s.window};
  const int pairs = random.one_of<int>({s.head_dim / 2, s.head_dim / 4});
  for (int i = 0; i < pairs; ++i) m.rope.inv_freq.push_back(std::pow(10000.0, -double(i) / pairs));
  m.rope.magnitude = random.one_of<double>({1.0, 1.17});
  m.rope.interleaved = s.interleaved;
  m.geometry = {kLayers, s.kv_heads, s.head_dim, s.block_tokens, s.type, blocks};
  m.norm = random.floats(s.head_dim);
  m.head_norm = s.head_norm;
  return m;
}

// One step over all layers, in one go and operation by operation; returns rotated qkv and both attention
// outputs of each.
std::vector<float> run_step(Backend& backend, const Model& m, const StepBatch& batch,
                            const std::vector<float>& qkv) {
  std::vector<float> all;
  backend.begin_step(batch);
  const NormWeights norm = {m.norm, 1e-6f};
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<float> rows(qkv.begin(), qkv.begin() + batch.rows() * m.width());
    for (float& v : rows) v *= static_cast<float>(1 + layer);
    std::vector<float> out(batch.rows() * m.attention.heads * m.attention.head_dim);
    const NormWeights* head_norm = m.head_norm ? &norm : nullptr;
    std::vector<float> together = rows;
    int stored = 0;
    backend.rope_attention({layer, head_norm, head_norm}, together.data(), out.data(), [&] { ++stored; });
    EXPECT_EQ(stored, 1);
    all.insert(all.end(), out.begin(), out.end());
    backend.rope_store(layer, head_norm, head_norm, rows.data());
    backend.attention(layer, rows.data(), out.data());
    all.insert(all.end(), rows.begin(), rows.end());
    all.insert(all.end(), out.begin(), out.end());
  }
  EXPECT_TRUE(backend.finish_step().ok());
  return all;
}

std::vector<BlockId> shuffled_blocks(RandomModel& random, int64_t count) {
  std::vector<BlockId> blocks;
  for (int64_t b = 0; b < count; ++b) blocks.push_back(BlockId(static_cast<uint32_t>(b)));
  random.shuffle(blocks);
  return blocks;
}

// Contexts around the edges of tiles, blocks and chunks.
std::vector<std::vector<int>> step_lengths(RandomModel& random) {
  return {{random.between(1, 20), random.one_of<int>({255, 256, 257}), 33},  // prefill of three sequences
          {1, 1, 1},                                                         // decode
          {random.one_of<int>({16, 17, 31}), 1, random.between(200, 260)},   // both
          {1, random.one_of<int>({254, 255, 256}), 1},
          {1, 1, 1}};
}

void compare(const Shape& shape, uint64_t seed) {
  RandomModel random(seed);
  const int64_t blocks = (2000 + shape.block_tokens - 1) / shape.block_tokens / 3 * 3 + 3;
  Model m = make_model(random, shape, blocks);
  OracleBackend oracle(shape.numerics);
  std::vector<NamedBackend> backends = cpu_backends(1, Scalar::kIncluded, shape.numerics);
  const Scalar scalar = shape.head_dim <= 20 ? Scalar::kIncluded : Scalar::kLeftOut;
  for (const int threads : {2, 3})
    for (NamedBackend& b : cpu_backends(threads, scalar, shape.numerics)) backends.push_back(std::move(b));
  std::vector<std::vector<std::byte>> pools(backends.size());
  ASSERT_TRUE(oracle.set_attention(m.attention, m.rope).ok());
  ASSERT_TRUE(oracle.attach_kv({}, m.geometry).ok());
  for (size_t i = 0; i < backends.size(); ++i) {
    pools[i].assign(m.geometry.pool_bytes(), std::byte{0x7f});  // not-written KV reads as NaN or huge
    ASSERT_TRUE(backends[i].backend->set_attention(m.attention, m.rope).ok());
    ASSERT_TRUE(backends[i].backend->attach_kv(pools[i], m.geometry).ok());
    // With a matrix to multiply, threads take rows of their own in the larger steps; without, never.
    if (backends[i].backend->host_threads() == 3) {
      const WeightView weight = {DType::kF32, pools[i].data(), 16, 16};
      ASSERT_TRUE(backends[i].backend->make_linear({.parts = {weight}, .bias = {}}).ok());
    }
  }
  const std::vector<BlockId> order = shuffled_blocks(random, blocks);
  std::vector<int> done(3, 0);
  for (const std::vector<int>& lengths : step_lengths(random)) {
    OwnedBatch owned;
    for (int s = 0; s < 3; ++s) {
      const auto first = order.begin() + s * (blocks / 3);
      owned.add({done[s], lengths[s], {first, first + blocks / 3}});
      done[s] += lengths[s];
    }
    const StepBatch batch = owned.batch();
    const std::vector<float> qkv = random.floats(batch.rows() * m.width(), 1.5f);
    const std::vector<float> want = run_step(oracle, m, batch, qkv);
    for (NamedBackend& b : backends)
      expect_same_bits(
          want, run_step(*b.backend, m, batch, qkv),
          b.name + ", head_dim " + std::to_string(shape.head_dim) + ", seed " + std::to_string(seed));
  }
}

class AttentionDifferential : public testing::TestWithParam<Shape> {};

TEST_P(AttentionDifferential, EveryInstructionSetAndThreadCount) {
  const uint64_t seed = RandomModel::seed_or(1000 + GetParam().head_dim + GetParam().share);
  compare(GetParam(), seed);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionDifferential,
                         testing::Values(Shape{64, 3, 3, KvType::kBF16, 16, 0, true, false},
                                         Shape{40, 2, 5, KvType::kBF16, 32, 90, false, false},
                                         Shape{80, 1, 2, KvType::kF16, 16, 0, false, false},
                                         Shape{96, 1, 3, KvType::kBF16, 16, 0, false, true},
                                         Shape{256, 1, 2, KvType::kBF16, 16, 0, true, false},
                                         Shape{7, 1, 3, KvType::kF16, 16, 0, false, false},
                                         Shape{64, 1, 4, KvType::kF32, 32, 0, false, false},
                                         Shape{8, 4, 2, KvType::kF32, 16, 0, true, false},
                                         Shape{8, 1, 1, KvType::kBF16, 16, 40, false, false},
                                         Shape{8, 2, 1, KvType::kF16, 48, 0, false, true},
                                         Shape{48, 2, 3, KvType::kF16, 64, 300, false, false},
                                         Shape{128, 1, 7, KvType::kBF16, 16, 100, false, true},
                                         Shape{128, 2, 1, KvType::kF16, 32, 256, true, false},
                                         Shape{80, 1, 30, KvType::kF32, 16, 1, false, false},
                                         Shape{20, 1, 2, KvType::kBF16, 16, 0, false, false}));

INSTANTIATE_TEST_SUITE_P(Int8, AttentionDifferential,
                         testing::Values(Shape{64, 3, 3, KvType::kInt8, 16, 0, true, false},
                                         Shape{8, 1, 1, KvType::kInt8, 16, 41, false, false},
                                         Shape{7, 1, 2, KvType::kInt8, 16, 0, false, false},
                                         Shape{40, 2, 5, KvType::kInt8, 32, 90, false, false},
                                         Shape{128, 1, 7, KvType::kInt8, 16, 101, false, true}));

constexpr Numerics kDots = Numerics::kBrainDots;
INSTANTIATE_TEST_SUITE_P(BrainDots, AttentionDifferential,
                         testing::Values(Shape{64, 3, 3, KvType::kBF16, 16, 0, true, false, kDots},
                                         Shape{8, 1, 1, KvType::kBF16, 16, 41, false, false, kDots},
                                         Shape{40, 2, 5, KvType::kBF16, 32, 90, false, false, kDots},
                                         Shape{18, 1, 2, KvType::kBF16, 16, 0, false, true, kDots},
                                         Shape{128, 1, 7, KvType::kBF16, 16, 101, false, true, kDots},
                                         Shape{16, 2, 1, KvType::kF16, 16, 0, false, false, kDots}));

// The same tokens in one step of 600 rows, in pieces of any size and one by one: the same KV bytes and
// outputs.
class AttentionInvariance : public testing::TestWithParam<Numerics> {};
INSTANTIATE_TEST_SUITE_P(Classes, AttentionInvariance, testing::Values(Numerics::kFloat, kDots));

TEST_P(AttentionInvariance, ChunkSizesDoNotMatter) {
  const uint64_t seed = RandomModel::seed_or(77);
  RandomModel random(seed);
  Model m = make_model(random, {64, 3, 3, KvType::kBF16, 16, 0, false, false}, 40);
  const int length = 600;
  const std::vector<float> qkv = random.floats(length * m.width());
  const std::vector<BlockId> order = shuffled_blocks(random, 40);
  std::vector<float> whole;
  std::vector<std::byte> whole_pool;
  for (const int piece : {600, 1, 7, 64, 255, 256, 257}) {
    auto backend = make_backend({.device = "cpu", .threads = piece % 3 + 1, .numerics = GetParam()});
    ASSERT_TRUE(backend.ok());
    std::vector<std::byte> pool(m.geometry.pool_bytes());
    ASSERT_TRUE((*backend)->set_attention(m.attention, m.rope).ok());
    ASSERT_TRUE((*backend)->attach_kv(pool, m.geometry).ok());
    const int64_t out_width = m.attention.heads * m.attention.head_dim;
    std::vector<float> rotated = qkv, out(length * out_width);
    for (int first = 0; first < length; first += piece) {
      OwnedBatch owned;
      owned.add({first, std::min(piece, length - first), order});
      (*backend)->begin_step(owned.batch());
      (*backend)->rope_store(0, nullptr, nullptr, rotated.data() + first * m.width());
      (*backend)->attention(0, rotated.data() + first * m.width(), out.data() + first * out_width);
    }
    if (piece == 600) {
      whole = out;
      whole_pool = pool;
      continue;
    }
    expect_same_bits(whole, out, "pieces of " + std::to_string(piece));
    EXPECT_TRUE(pool == whole_pool) << "KV bytes, pieces of " << piece;
  }
}

}  // namespace
}  // namespace baton::kernels
