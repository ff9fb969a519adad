#include "cli/bench/bench_engine.h"

#include <gmock/gmock.h>

#include <boost/json.hpp>

#include "cli/bench/step_cost.h"
#include "cli/bench/stepped_model.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::cli {
namespace {

using baton::testing::RandomModel;
using baton::testing::TempDir;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class BenchEngine : public ::testing::Test {
 protected:
  BenchEngine() : dir_("bench-engine") {
    EXPECT_TRUE(RandomModel({.context = 128, .matrix = DType::kQ4_0, .embedding = DType::kQ8_0})
                    .write_gguf(dir_.file("m.gguf")));
  }
  BenchEngineOptions options() const {
    BenchEngineOptions o;
    o.model = dir_.file("m.gguf");
    o.prompt_tokens = {20};
    o.output_tokens = {4};
    o.threads = {1};
    o.repetitions = 1;
    o.chunk = 8;
    return o;
  }
  std::string refusal(const BenchEngineOptions& o) const {
    const auto report = measure_engine(o);
    return report.ok() ? "accepted" : std::string(report.status().message());
  }
  TempDir dir_;
};

TEST_F(BenchEngine, MeasuresEveryCombinationOfTheLists) {
  BenchEngineOptions o = options();
  o.prompt_tokens = {20, 5};
  o.batches = {1, 3};
  o.depths = {0, 33};
  o.threads = {1, 2};
  const auto report = measure_engine(o);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->format, "Q4_0, head Q8_0");
  ASSERT_EQ(report->ceilings.size(), 2u);
  ASSERT_EQ(report->rows.size(), 2u * 2u * (2u + 2u));  // threads x depths x (prompts + batches)
  std::vector<std::string> seen;
  for (const EngineRow& row : report->rows) {
    EXPECT_GT(row.tok_s, 0);
    EXPECT_GE(row.tok_s_best, row.tok_s);
    EXPECT_GT(row.ratio, 0);
    EXPECT_EQ(row.ratio_of, row.decode ? "read" : "int8");
    EXPECT_EQ(row.ratio, row.decode ? row.of_read : row.of_peak);
    EXPECT_EQ(row.steps, row.decode ? row.tokens : (row.tokens + 7) / 8);
    seen.push_back(std::to_string(row.threads) + (row.decode ? "d" : "p") + std::to_string(row.batch) + "@" +
                   std::to_string(row.depth));
  }
  const std::vector<std::string> want = {"1p1@0",  "1p1@0",  "1d1@0",  "1d3@0", "1p1@33", "1p1@33",
                                         "1d1@33", "1d3@33", "2p1@0",  "2p1@0", "2d1@0",  "2d3@0",
                                         "2p1@33", "2p1@33", "2d1@33", "2d3@33"};
  EXPECT_THAT(seen, ElementsAreArray(want));
}

TEST_F(BenchEngine, JsonHasTheShapeThatIsPromised) {
  const auto report = measure_engine(options());
  ASSERT_TRUE(report.ok()) << report.status();
  const auto json = boost::json::parse(to_json(*report)).as_object();
  for (const char* key : {"model", "format", "backend", "numerics", "machine", "ceilings", "rows", "version"})
    EXPECT_TRUE(json.contains(key)) << key;
  for (const char* key : {"int8_ops_s", "bf16_ops_s", "f32_ops_s", "read_bytes_s", "threads"})
    EXPECT_TRUE(json.at("ceilings").as_object().at(key).is_number()) << key;
  ASSERT_EQ(json.at("rows").as_array().size(), 2u);
  const auto& prefill = json.at("rows").at(0).as_object();
  EXPECT_EQ(prefill.at("test"), "prefill");
  EXPECT_EQ(prefill.at("tokens"), 20);
  EXPECT_EQ(json.at("rows").at(1).at("test"), "decode");
  for (const char* key : {"tokens", "batch", "depth", "threads", "tok_s", "tok_s_best", "ratio", "bytes",
                          "operations", "repetitions"})
    EXPECT_TRUE(prefill.at(key).is_number()) << key;
  EXPECT_THAT(to_table(*report), HasSubstr("prefill"));
}

TEST_F(BenchEngine, RefusesWhatCannotBeMeasured) {
  BenchEngineOptions o = options();
  o.depths = {0, 120};
  EXPECT_EQ(refusal(o), "depth 120 and 20 tokens more: the model's context is 128 tokens");
  o = options();
  o.model = dir_.file("none.gguf");
  EXPECT_THAT(refusal(o), HasSubstr("none.gguf: no such model"));
  o = options();
  o.prompt_tokens = o.output_tokens = {0};
  EXPECT_THAT(refusal(o), HasSubstr("nothing to measure"));
  o = options();
  o.batches = {9};
  EXPECT_THAT(refusal(o), HasSubstr("a step has 8 rows at most"));
  o = options();
  o.batches = {2'000'000'000};  // refused before anything is taken
  o.chunk = 2'000'000'000;
  EXPECT_THAT(refusal(o), HasSubstr("take a smaller batch"));
  o = options();
  o.isa = "sse9";
  EXPECT_THAT(refusal(o), HasSubstr("sse9"));
  baton::testing::write_file(dir_.file("text.gguf"), "this is no model");
  o = options();
  o.model = dir_.file("text.gguf");
  EXPECT_THAT(refusal(o), HasSubstr("text.gguf"));
}

// 2 layers, hidden 64, 4 heads of 16 and 2 KV heads, ffn 96, vocabulary 160.
TEST_F(BenchEngine, CountsWhatAStepReadsAndComputes) {
  const auto file = worker::ModelFile::open(dir_.file("m.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto kv = worker::kv_geometry((*file)->spec(), 16, kernels::KvType::kBF16, 1);
  const StepCost cost((*file)->spec(), (*file)->weights(), 1000, kv);
  const double qkv = 64 * 64 + 2 * 32 * 64, rest = 64 * 64 + 3 * 96 * 64, head = 160 * 64;
  const Counted step = cost.step(3, 1, 50);
  EXPECT_EQ(step.int8, 2 * (3 * (2 * qkv + rest) + rest + head))
      << "the last layer's rest: the logit row only";
  EXPECT_EQ(step.bf16 + step.f32, 0);
  EXPECT_EQ(step.bytes, 1000 + 50 * 2 * 2 * 2 * 16 * 2);  // K and V, layers, KV heads, head size, two bytes
  EXPECT_EQ(cost.parameters(), 2 * (qkv + rest) + 2 * head);
  EXPECT_EQ(cost.step(3, 0, 0).bytes, 1000 - rest * 18 / 32 - head * 34 / 32) << "neither read nor computed";
  EXPECT_EQ(compute_seconds(step, {.int8 = 1e6}), step.int8 / 1e6);
}

// What is stepped is the model: copied depths and chunks give the tokens of one plain sequence.
TEST_F(BenchEngine, StepsTheModelItself) {
  const auto file = worker::ModelFile::open(dir_.file("m.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto stepped = [&](int chunk) {
    auto made = SteppedModel::open(
        **file, {.backend = {.threads = 2}, .step_rows = chunk, .max_positions = 60, .pool_positions = 240});
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  };
  const auto tokens_of = [](SteppedModel& m, int count, int64_t depth, int sequence) {
    EXPECT_TRUE(m.start(count, depth, 10).ok());
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(m.decode().ok());
    return std::vector<TokenId>(m.tokens(sequence).begin(), m.tokens(sequence).end());
  };
  const auto one = stepped(64), many = stepped(7);
  const std::vector<TokenId> plain = tokens_of(*one, 1, 33, 0);
  ASSERT_EQ(plain.size(), 44u);
  EXPECT_EQ(tokens_of(*many, 4, 33, 0), plain);
  const std::vector<TokenId> third = tokens_of(*many, 4, 33, 2);
  EXPECT_NE(third, plain) << "sequences have tokens of their own";
  EXPECT_EQ(tokens_of(*one, 3, 33, 2), third);
  EXPECT_TRUE(many->start(1, 20, 30).ok());
  EXPECT_TRUE(many->prefill(30).ok());
  EXPECT_EQ(tokens_of(*many, 2, 33, 0), plain) << "after other work in the same blocks";
}

}  // namespace
}  // namespace baton::cli
