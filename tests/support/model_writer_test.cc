#include "tests/support/model_writer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/dequantize.h"
#include "tests/golden/model_under_test.h"
#include "tests/worker/model/temp_dir.h"

namespace baton::testing {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,   DType::kQ8_0,
                            DType::kQ4_0, DType::kQ4_1, DType::kQ2_K,   DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K, DType::kIQ2_XXS};

RandomModelOptions small(DType matrix, DType embedding) {
  return {.vocab = 200,
          .hidden = 256,
          .ffn = 512,
          .head_dim = 64,
          .tied = true,
          .matrix = matrix,
          .embedding = embedding};
}

class ModelWriter : public ::testing::Test {
 protected:
  ModelWriter() : dir_("model-writer") {}
  TempDir dir_;
};
class ModelWriterOf : public ModelWriter, public ::testing::WithParamInterface<DType> {};

// Every format: the engine reads it, a matrix keeps the size of what goes through it, logits are finite.
TEST_P(ModelWriterOf, WritesWhatTheEngineRuns) {
  const std::string path = dir_.file("m.gguf");
  ASSERT_TRUE(write_random_model(small(GetParam(), GetParam()), path, 2).ok());
  EngineSetup setup;
  setup.device = "cpu";
  setup.blocks = 8;
  auto model = ModelUnderTest::open(path, setup);
  ASSERT_TRUE(model.ok()) << model.status();
  const kernels::WeightView& down = (*model)->file().weights().layers[1].down;
  std::vector<float> row(down.cols);
  double squares = 0;
  for (int64_t r = 0; r < down.rows; ++r) {
    kernels::dequantize_row(down.type, down.data + r * *kernels::row_bytes(down.type, down.cols), row);
    for (const float w : row) squares += double{w} * w;
  }
  const double deviation = std::sqrt(squares / static_cast<double>(down.rows * down.cols));
  EXPECT_GT(deviation * std::sqrt(512.0), 0.3);
  EXPECT_LT(deviation * std::sqrt(512.0), 3);
  worker::Sequence sequence = (*model)->make_sequence({1, 2, 3, 199}, 16);
  const worker::StepResult result = (*model)->run({{&sequence, 0, 4, true, false}});
  EXPECT_TRUE(result.sampled.at(0).token.has_value()) << result.sampled.at(0).error;
}
INSTANTIATE_TEST_SUITE_P(Formats, ModelWriterOf, ::testing::ValuesIn(kTypes),
                         [](const auto& format) { return std::string(traits_of(format.param).name); });

TEST_F(ModelWriter, BytesDoNotDependOnThreads) {
  const auto options = small(DType::kQ4_1, DType::kQ8_0);
  ASSERT_TRUE(write_random_model(options, dir_.file("1"), 1).ok());
  ASSERT_TRUE(write_random_model(options, dir_.file("3"), 3).ok());
  const std::string bytes = read_file(dir_.file("1"));
  EXPECT_GT(bytes.size(), 100'000u);
  EXPECT_TRUE(bytes == read_file(dir_.file("3")));
  auto other = options;
  other.seed = 2;
  ASSERT_TRUE(write_random_model(other, dir_.file("1"), 1).ok());
  EXPECT_FALSE(bytes == read_file(dir_.file("1")));
}

TEST_F(ModelWriter, NamesShapesAndTypes) {
  for (const std::string& name : model_shape_names()) EXPECT_TRUE(model_shape(name).has_value()) << name;
  EXPECT_FALSE(model_shape("gpt-5").has_value());
  EXPECT_EQ(dtype_named("iq2_xxs"), DType::kIQ2_XXS);
  EXPECT_EQ(dtype_named("q3_0"), std::nullopt);
  EXPECT_FALSE(write_random_model(small(DType::kF32, DType::kF32), dir_.file("no/such/folder"), 1).ok());
}

}  // namespace
}  // namespace baton::testing
