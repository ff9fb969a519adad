// numerics: invariant on the emulated device: a table is made with a library whose algorithms differ in their
// bits (emulation/emulated_products.cc), and a model that multiplies with it has the same bits in every
// batch.
#include <gmock/gmock.h>

#include <cstring>
#include <fstream>

#include "kernels/cuda/algorithm_table.h"
#include "kernels/cuda_library.h"
#include "kernels/device_options.h"
#include "kernels/self_check.h"
#include "tests/golden/model_under_test.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"
#include "worker/model/model_linears.h"
#include "worker/model/output_shard.h"

namespace baton::kernels::cuda {
namespace {

using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::RandomModel;
using baton::testing::TempDir;
using ::testing::HasSubstr;
using worker::Sequence;

constexpr int kMostRows = 70;

class Invariant : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempDir dir("invariant");
    write_model(dir.file("m.gguf"));
    const auto file = worker::ModelFile::open(dir.file("m.gguf"));
    ASSERT_TRUE(file.ok());
    const auto shard = worker::shard_by_outputs((*file)->spec(), (*file)->weights(), {}, 0);
    ASSERT_TRUE(shard.ok());
    TuneRequest request = {.linears = worker::model_linears(*shard),
                           .most_rows = kMostRows,
                           .rounds = 1,
                           .said = [](std::string_view line) { said_.emplace_back(line); }};
    for (const LinearSpec& linear : self_check_linears(64)) request.linears.push_back(linear);
    const absl::StatusOr<std::string> made = tune_cuda(request);
    ASSERT_TRUE(made.ok()) << made.status();
    const auto table = parse_table("t", *made);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *table;
  }
  static void write_model(const std::string& path) {
    ASSERT_TRUE(RandomModel({.architecture = "qwen3", .head_dim = 64}).write_gguf(path));
  }
  void SetUp() override {
    write_model(model_);
    write(table_);
  }
  void write(const AlgorithmTable& table) { std::ofstream(file_, std::ios::binary) << table_text(table); }
  EngineSetup setup(bool table = true) const {
    EngineSetup setup;
    setup.device = "cuda";
    setup.numerics = table ? Numerics::kBrainDots : Numerics::kFastest;
    if (table) setup.device_options.algorithms = file_;
    setup.kv = KvType::kBF16;
    setup.blocks = 40;
    setup.max_rows = kMostRows;
    return setup;
  }
  std::string refusal(const AlgorithmTable& table) {
    write(table);
    const auto engine = ModelUnderTest::open(model_, setup());
    return engine.ok() ? "accepted" : std::string(engine.status().message());
  }

  const TempDir dir_{"invariant"};
  const std::string model_ = dir_.file("m.gguf"), file_ = dir_.file("algorithms.txt");
  static inline std::vector<std::string> said_;
  static inline AlgorithmTable table_;
};

// Small tiles (3) up to some number of rows, large ones (4) beyond: the others have other bits for other
// rows, or not all rows.
TEST_F(Invariant, ATableHasAlgorithmsOfOneClass) {
  ASSERT_FALSE(table_.products.empty());
  for (const TunedProduct& p : table_.products) {
    EXPECT_EQ(p.rows.back().most_rows, kMostRows);
    EXPECT_EQ(p.rows.front().algorithm.words[0], 3u);
    EXPECT_EQ(p.rows.back().algorithm.words[0], 4u);
    for (const TunedRows& rows : p.rows) EXPECT_GE(rows.algorithm.words[0], 3u);
  }
  EXPECT_EQ(said_.size(), table_.products.size() + 1);
  EXPECT_THAT(said_[1], HasSubstr("5 algorithms"));
}

// Logits of a prompt's last row and of tokens after it, by chunks, with others decoding beside it.
std::vector<std::vector<float>> generate(ModelUnderTest& engine, int chunk, int others) {
  constexpr int kPrompt = 50, kNew = 3;
  const auto prompt_of = [](int length, int salt) {
    std::vector<TokenId> out;
    for (int i = 0; i < length; ++i) out.push_back((i * 31 + salt * 17 + i * i) % 160);
    return out;
  };
  engine.free_all_blocks();
  std::vector<Sequence> beside;
  for (int i = 0; i < others; ++i) {
    beside.push_back(engine.make_sequence(prompt_of(3 + 5 * i, i + 7), 80));
    engine.run({{&beside.back(), 0, static_cast<int32_t>(beside.back().tokens.size()) - 1, false, false}});
  }
  Sequence s = engine.make_sequence(prompt_of(kPrompt, 1), kPrompt + kNew);
  std::vector<std::vector<float>> out;
  for (int32_t computed = 0; out.size() < kNew;) {
    const auto have = static_cast<int32_t>(s.tokens.size());
    const int32_t rows = std::min<int32_t>(chunk, have - computed);
    std::vector<worker::PlannedRows> plan;
    for (Sequence& b : beside)
      plan.push_back({&b, static_cast<int32_t>(b.tokens.size()) - 1, 1, true, false});
    plan.push_back({&s, computed, rows, computed + rows == have, false});
    engine.run(plan);
    computed += rows;
    if (computed < have) continue;
    const std::span<const float> logits = engine.runner().logits(beside.size());
    out.emplace_back(logits.begin(), logits.end());
    s.tokens.push_back(5);
  }
  return out;
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  return a.size() == b.size();
}

TEST_F(Invariant, HasTheSameBitsInEveryBatchChunkAndGraph) {
  const auto invariant = ModelUnderTest::open(model_, setup());
  ASSERT_TRUE(invariant.ok()) << invariant.status();
  const auto want = generate(**invariant, 60, 0);
  for (const int chunk : {7, 20})
    for (const int others : {0, 7}) EXPECT_TRUE(same_bits(want, generate(**invariant, chunk, others)));
  // What the library thinks fastest has not: the test can fail.
  const auto fastest = ModelUnderTest::open(model_, setup(false));
  ASSERT_TRUE(fastest.ok()) << fastest.status();
  EXPECT_FALSE(same_bits(generate(**fastest, 60, 0), generate(**fastest, 7, 3)));
}

TEST_F(Invariant, PassesTheCheckThatAWorkerMakes) {
  const auto backend = make_device_backend({.device = "cuda", .numerics = Numerics::kBrainDots},
                                           {.quantization = Quantization::kNone, .algorithms = file_});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(check_against_reference(**backend, {.head_dim = 64, .kv = KvType::kBF16, .rows = 70}),
            absl::OkStatus());
  EXPECT_EQ((*backend)->numerics_id(KvType::kBF16),
            "cuda-invariant-" + table_.bits() + "-wgmma-v4-sm90/kv-bf16");
}

TEST_F(Invariant, RefusesATableThatDoesNotMatch) {
  AlgorithmTable other = table_;
  other.tuned_on.library += 1;
  EXPECT_THAT(refusal(other), HasSubstr("the algorithms were chosen on"));
  other = table_;
  other.products.erase(other.products.begin());
  EXPECT_THAT(refusal(other), HasSubstr("is not in the table of algorithms"));
  other = table_;
  for (TunedProduct& p : other.products) p.signature ^= 1;
  EXPECT_THAT(refusal(other), HasSubstr("has not the bits that it had"));
  other = table_;
  for (TunedProduct& p : other.products) p.rows = {{kMostRows, {{3}}}};  // small tiles only: not for all rows
  EXPECT_THAT(refusal(other), HasSubstr("not for these rows"));
  std::ofstream(file_) << "something else";
  EXPECT_THAT(std::string(ModelUnderTest::open(model_, setup()).status().message()), HasSubstr("checksum"));
  EngineSetup fp8 = setup();
  fp8.device_options.quantization = Quantization::kFp8;
  EXPECT_THAT(std::string(ModelUnderTest::open(model_, fp8).status().message()), HasSubstr("bf16dot"));
}

}  // namespace
}  // namespace baton::kernels::cuda
