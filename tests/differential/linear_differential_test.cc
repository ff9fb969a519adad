#include <gtest/gtest.h>

#include <numeric>

#include "kernels/cpu/thread_pool.h"
#include "kernels/dequantize.h"
#include "kernels/quant_block.h"
#include "tests/differential/oracle_backend.h"
#include "tests/differential/random_model.h"

// Linear layers, norms and activations of CpuBackend against the contract, bit for bit.
namespace baton::kernels {
namespace {

struct LinearCase {
  std::vector<WeightView> parts;
  std::vector<float> bias;
  int k_shards = 1;
  int rows = 1;
  std::string text;
};

// Columns that the type allows and k_shards divides into whole groups.
int64_t columns(RandomModel& random, DType type, int k_shards) {
  const int step =
      std::lcm(traits_of(type).elements, k_shards == 1 ? 1 : (has_multipliers(type) ? 64 : 32) * k_shards);
  const int most = std::max(1, 640 / step);
  return int64_t{step} * random.between(1, most);
}

LinearCase random_case(RandomModel& random, DType type, int rows) {
  LinearCase c;
  c.rows = rows;
  c.k_shards = random.one_of<int>({1, 1, 2, 3, 4, 5, 6, 7, 8});
  const int64_t cols = columns(random, type, c.k_shards);
  int64_t outputs = 0;
  for (int parts = random.between(1, 3); parts > 0; --parts) {
    c.parts.push_back(random.weight(type, random.between(1, 70), cols));
    outputs += c.parts.back().rows;
  }
  if (random.between(0, 1) == 1) c.bias = random.floats(outputs);
  c.text = std::string(traits_of(type).name) + " " + std::to_string(outputs) + " x " + std::to_string(cols) +
           ", " + std::to_string(c.k_shards) + " shards, " + std::to_string(rows) + " rows";
  return c;
}

// The smallest attention and KV that a step needs.
void prepare(Backend& backend, std::vector<std::byte>& pool) {
  const KvGeometry geometry = {.layers = 1, .kv_heads = 1, .head_dim = 16, .type = KvType::kF32, .blocks = 8};
  pool.resize(geometry.pool_bytes());
  ASSERT_TRUE(backend.set_attention({.heads = 1, .kv_heads = 1, .head_dim = 16, .scale = 1}, {}).ok());
  ASSERT_TRUE(backend.attach_kv(pool, geometry).ok());
}

OwnedBatch rows_of(int count) {
  OwnedBatch batch;
  std::vector<BlockId> blocks;
  for (uint32_t b = 0; b < 8; ++b) blocks.push_back(BlockId(b));
  batch.add({0, count, blocks});
  return batch;
}

struct Outputs {
  std::vector<float> plain, added, logits, maxima;
};

// A model's head is one matrix: the first of the case's.
void run_head(Backend& backend, const LinearCase& c, const NormWeights& norm, const float* x, Outputs& out) {
  const int64_t vocabulary = c.parts[0].rows;
  std::vector<float> bias = c.bias;
  bias.resize(bias.empty() ? 0 : vocabulary);
  auto linear = backend.make_linear({{c.parts[0]}, bias, c.k_shards});
  ASSERT_TRUE(linear.ok()) << linear.status();
  OwnedBatch owned = rows_of(c.rows);
  backend.begin_step(owned.batch());
  out.logits.resize(owned.logit_rows.size() * vocabulary);
  out.maxima.resize(owned.logit_rows.size() * logit_blocks(vocabulary));
  backend.head(norm, **linear, x, {out.logits.data(), out.maxima.data()});
  EXPECT_TRUE(backend.finish_step().ok());
}

Outputs run_case(Backend& backend, const LinearCase& c, const std::vector<float>& x,
                 const std::vector<float>& residual) {
  const int64_t cols = c.parts[0].cols;
  auto linear = backend.make_linear({c.parts, c.bias, c.k_shards});
  EXPECT_TRUE(linear.ok()) << linear.status();
  const std::vector<float> weight(x.begin(), x.begin() + cols);
  const NormWeights norm = {weight, 1e-5f};
  OwnedBatch owned = rows_of(c.rows);
  backend.begin_step(owned.batch());
  Outputs out;
  out.plain.resize(c.rows * (*linear)->rows());
  backend.norm_linear(norm, **linear, x.data(), out.plain.data());
  out.added.assign(residual.begin(), residual.begin() + c.rows * (*linear)->rows());
  backend.linear_add(**linear, x.data(), out.added.data());
  EXPECT_TRUE(backend.finish_step().ok());
  run_head(backend, c, norm, x.data(), out);
  return out;
}

// What is special about one class of numerics: its types.
struct TypeCase {
  DType type;
  Numerics numerics = Numerics::kFloat;
};

std::vector<TypeCase> type_cases() {
  std::vector<TypeCase> cases;
  for (const DType type : all_types()) cases.push_back({type});
  cases.push_back({DType::kBF16, Numerics::kBrainDots});
  cases.push_back({DType::kF16, Numerics::kBrainDots});
  return cases;
}

class LinearDifferential : public testing::TestWithParam<TypeCase> {};

TEST_P(LinearDifferential, EveryInstructionSetRowCountAndThreadCount) {
  const uint64_t seed = RandomModel::seed_or(100 + static_cast<uint64_t>(GetParam().type));
  RandomModel random(seed);
  std::vector<std::byte> pool;
  for (int threads = 1; threads <= 3; ++threads) {
    std::vector<NamedBackend> backends = cpu_backends(threads, Scalar::kIncluded, GetParam().numerics);
    OracleBackend oracle(GetParam().numerics);
    prepare(oracle, pool);
    for (NamedBackend& b : backends) prepare(*b.backend, pool);
    for (const int rows : {1, 2, 3, 4, 5, 6, 7, 12, 13, 25, random.between(14, 40), random.between(26, 70)}) {
      const LinearCase c = random_case(random, GetParam().type, rows);
      const std::vector<float> x = random.floats(c.rows * c.parts[0].cols, 2.0f);
      const std::vector<float> residual = random.floats(c.rows * 210);
      const Outputs want = run_case(oracle, c, x, residual);
      for (NamedBackend& b : backends) {
        const Outputs got = run_case(*b.backend, c, x, residual);
        const std::string what = b.name + ", " + c.text + ", seed " + std::to_string(seed);
        expect_same_bits(want.plain, got.plain, what + ", norm_linear");
        expect_same_bits(want.added, got.added, what + ", linear_add");
        expect_same_bits(want.logits, got.logits, what + ", head");
        expect_same_bits(want.maxima, got.maxima, what + ", maxima");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LinearDifferential, testing::ValuesIn(type_cases()), [](const auto& info) {
  return std::string(traits_of(info.param.type).name) +
         (info.param.numerics == Numerics::kFloat ? "" : "BrainDots");
});

// Vocabularies of several blocks and a rest, rows shared and panels shared; one logit is infinite.
TEST(HeadDifferential, MaximaAreThoseOfTheLogits) {
  const uint64_t seed = RandomModel::seed_or(8);
  RandomModel random(seed);
  std::vector<std::byte> pool;
  for (int threads = 1; threads <= 3; ++threads)
    for (const int rows : {1, 2, 5, 12, 40})
      for (const int vocabulary : {256, 700, 1300}) {
        LinearCase c;
        c.rows = rows;
        c.parts = {random.weight(DType::kQ8_0, vocabulary, 64)};
        for (int i = 0; i < vocabulary; ++i) c.bias.push_back(0);
        c.bias[random.between(0, vocabulary - 1)] = std::numeric_limits<float>::infinity();
        const std::vector<float> x = random.floats(rows * 64, 2.0f), weight(64, 1.0f);
        for (NamedBackend& b : cpu_backends(threads)) {
          prepare(*b.backend, pool);
          Outputs got;
          run_head(*b.backend, c, {weight, 1e-5f}, x.data(), got);
          const auto blocks = static_cast<size_t>(logit_blocks(vocabulary));
          ASSERT_EQ(got.maxima.size() % blocks, 0u);
          for (size_t r = 0; r < got.maxima.size() / blocks; ++r) {
            bool said = false;
            for (size_t block = 0; block < blocks; ++block) {
              const std::span row = std::span(got.logits).subspan(r * vocabulary, vocabulary);
              const std::span of = row.subspan(256 * block, std::min<size_t>(256, vocabulary - 256 * block));
              const float max = got.maxima[r * blocks + block];
              if (std::ranges::any_of(of, [](float v) { return std::isinf(v); })) {
                EXPECT_TRUE(std::isnan(max)) << b.name << ", seed " << seed;
                said = true;
              } else if (!std::isnan(max)) {
                EXPECT_EQ(max, *std::ranges::max_element(of)) << b.name << ", seed " << seed;
              }
            }
            EXPECT_TRUE(said);
          }
        }
      }
}

TEST(LinearDifferentialMixed, PartsOfDifferentTypes) {
  const uint64_t seed = RandomModel::seed_or(7);
  RandomModel random(seed);
  std::vector<std::byte> pool;
  for (int threads = 1; threads <= 2; ++threads) {
    OracleBackend oracle;
    prepare(oracle, pool);
    for (NamedBackend& b : cpu_backends(threads)) {
      prepare(*b.backend, pool);
      LinearCase c = {.parts = {random.weight(DType::kQ4_K, 33, 256), random.weight(DType::kQ6_K, 16, 256),
                                random.weight(DType::kF16, 9, 256)},
                      .rows = random.between(1, 9)};
      c.bias = random.floats(58);
      const std::vector<float> x = random.floats(c.rows * 256);
      const std::vector<float> residual = random.floats(c.rows * 58);
      const Outputs want = run_case(oracle, c, x, residual), got = run_case(*b.backend, c, x, residual);
      expect_same_bits(want.plain, got.plain, b.name);
      expect_same_bits(want.added, got.added, b.name);
      expect_same_bits(want.logits, got.logits, b.name);
    }
  }
}

// Zeros, denormals, huge values and non-finite groups: the same codes and scales everywhere.
TEST(LinearDifferentialMixed, ExtremeActivations) {
  RandomModel random(11);
  std::vector<std::byte> pool;
  OracleBackend oracle;
  prepare(oracle, pool);
  LinearCase c;
  c.parts = {random.weight(DType::kQ8_0, 20, 192)};
  c.rows = 5;
  std::vector<float> x = random.floats(c.rows * 192);
  for (int i = 0; i < 32; ++i) {
    x[i] = 0.0f;
    x[192 + i] = i % 2 == 0 ? 1e-40f : -1e-42f;
    x[192 + 32 + i] *= 1e32f;
    x[192 + 64 + i] = i == 0 ? 127.0f : static_cast<float>(i) + 0.5f;  // ties
    x[384 + i] = -0.0f;
    x[384 + 64 + i] = i == 31 ? -3.0e34f : 1.0f;
  }
  const std::vector<float> residual(c.rows * 20, 0.0f);
  const Outputs want = run_case(oracle, c, x, residual);
  x[4 * 192 + 40] = std::numeric_limits<float>::infinity();
  const Outputs poisoned = run_case(oracle, c, x, residual);
  for (NamedBackend& b : cpu_backends(1)) {
    prepare(*b.backend, pool);
    const Outputs got = run_case(*b.backend, c, x, residual);
    for (int row = 0; row < 4; ++row)  // one row's poison stays in its row
      expect_same_bits(std::span(want.added).subspan(row * 20, 20),
                       std::span(got.added).subspan(row * 20, 20), b.name);
    for (int i = 80; i < 100; ++i) {
      EXPECT_TRUE(std::isnan(got.added[i])) << b.name;
      EXPECT_TRUE(std::isnan(poisoned.added[i]));
    }
  }
}

TEST(LinearDifferentialMixed, GateUpOfTwoPartsAndOfOne) {
  const uint64_t seed = RandomModel::seed_or(13);
  RandomModel random(seed);
  std::vector<std::byte> pool;
  for (int threads = 1; threads <= 3; ++threads) {
    OracleBackend oracle;
    prepare(oracle, pool);
    for (NamedBackend& b : cpu_backends(threads)) {
      prepare(*b.backend, pool);
      for (const int rows : {1, 2, 3, 20, 37}) {
        const bool fused = random.between(0, 1) == 1;
        const int width = fused ? 16 * random.between(1, 8) : random.between(1, 172);
        const DType type = random.one_of(all_types());
        LinearSpec spec;
        if (fused) {
          spec.parts = {random.weight(type, 2 * width, 256)};
        } else {
          spec.parts = {random.weight(type, width, 256),
                        random.weight(random.one_of(all_types()), width, 256)};
        }
        const std::vector<float> x = random.floats(rows * 256);
        const std::vector<float> weight = random.floats(256);
        std::vector<float> want(rows * width), got(rows * width);
        OwnedBatch owned = rows_of(rows);
        const StepBatch batch = owned.batch();
        auto expected = oracle.make_linear(spec);
        auto linear = b.backend->make_linear(spec);
        ASSERT_TRUE(linear.ok()) << linear.status();
        oracle.begin_step(batch);
        oracle.gate_up({weight, 1e-6f}, **expected, x.data(), want.data());
        b.backend->begin_step(batch);
        b.backend->gate_up({weight, 1e-6f}, **linear, x.data(), got.data());
        expect_same_bits(want, got,
                         b.name + ", " + std::string(traits_of(type).name) + ", width " +
                             std::to_string(width) + ", rows " + std::to_string(rows));
      }
    }
  }
}

// The whole feed-forward block, which the backend may do without writing the activated rows as floats.
TEST(LinearDifferentialMixed, FeedForward) {
  RandomModel random(RandomModel::seed_or(29));
  std::vector<std::byte> pool;
  for (int threads = 1; threads <= 3; ++threads) {
    OracleBackend oracle;
    prepare(oracle, pool);
    for (NamedBackend& b : cpu_backends(threads)) {
      prepare(*b.backend, pool);
      for (const int rows : {1, 2, 3, 20, 37}) {
        const int width = 256 * random.between(1, 2);
        LinearSpec first, down;
        first.parts = {random.weight(random.one_of(all_types()), width, 256),
                       random.weight(random.one_of(all_types()), width, 256)};
        down.parts = {random.weight(random.one_of(all_types()), 256, width)};
        down.k_shards = random.between(0, 1) == 0 ? 1 : 4;
        const std::vector<float> weight = random.floats(256);
        std::vector<float> want = random.floats(rows * 256), got = want, scratch(rows * width);
        OwnedBatch owned = rows_of(rows);
        const StepBatch batch = owned.batch();
        auto want_first = oracle.make_linear(first), want_down = oracle.make_linear(down);
        auto got_first = b.backend->make_linear(first), got_down = b.backend->make_linear(down);
        ASSERT_TRUE(got_first.ok() && got_down.ok());
        oracle.begin_step(batch);
        oracle.feed_forward({weight, 1e-6f}, **want_first, **want_down, want.data(), scratch.data());
        b.backend->begin_step(batch);
        b.backend->feed_forward({weight, 1e-6f}, **got_first, **got_down, got.data(), scratch.data());
        expect_same_bits(want, got,
                         b.name + ", " + std::string(traits_of(down.parts[0].type).name) + ", width " +
                             std::to_string(width) + ", rows " + std::to_string(rows));
      }
    }
  }
}

// A row's result does not depend on the rows it is computed with: 300 rows at once and one by one.
TEST(LinearDifferentialMixed, RowsDoNotSeeTheirNeighbours) {
  RandomModel random(17);
  const int64_t cols = 1536, outputs = 50;
  const LinearSpec spec = {{random.weight(DType::kQ4_1, outputs, cols)}, {}, 3};
  const int rows = 120;
  const std::vector<float> x = random.floats(rows * cols);
  std::vector<std::byte> pool;
  for (NamedBackend& b : cpu_backends(2)) {
    prepare(*b.backend, pool);
    auto linear = b.backend->make_linear(spec);
    ASSERT_TRUE(linear.ok());
    OwnedBatch many = rows_of(rows);
    b.backend->begin_step(many.batch());
    std::vector<float> together(rows * outputs, 0.0f), single(rows * outputs, 0.0f);
    b.backend->linear_add(**linear, x.data(), together.data());
    for (int r = 0; r < rows; ++r) {
      OwnedBatch one = rows_of(1);
      b.backend->begin_step(one.batch());
      b.backend->linear_add(**linear, x.data() + r * cols, single.data() + r * outputs);
    }
    expect_same_bits(together, single, b.name);
  }
}

TEST(LinearDifferentialMixed, Embedding) {
  RandomModel random(19);
  std::vector<std::byte> pool;
  for (const DType type : all_types()) {
    const WeightView table = random.weight(type, 37, 256);
    OracleBackend oracle;
    prepare(oracle, pool);
    OwnedBatch owned = rows_of(30);
    const StepBatch batch = owned.batch(37);
    oracle.begin_step(batch);
    std::vector<float> want(30 * 256);
    oracle.embed(*oracle.make_embedding(table).value(), want.data());
    for (NamedBackend& b : cpu_backends(2)) {
      prepare(*b.backend, pool);
      auto embedding = b.backend->make_embedding(table);
      ASSERT_TRUE(embedding.ok());
      b.backend->begin_step(batch);
      std::vector<float> got(30 * 256);
      b.backend->embed(**embedding, got.data());
      expect_same_bits(want, got, std::string(traits_of(type).name));
    }
  }
}

}  // namespace
}  // namespace baton::kernels
