// Perplexity of Newton's Opticks under the default model, against the float64 figure of
// shared/models/README.md.
#include <gmock/gmock.h>

#include <boost/json.hpp>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <optional>

#include "tests/golden/model_under_test.h"
#include "text/model_text.h"
#include "worker/model/mapped_file.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::ModelUnderTest;
using testing::shared_model;
using testing::slow_tests;
using testing::smollm2_path;

constexpr int kWindow = 2048;

class Perplexity : public ::testing::Test {
 protected:
  void SetUp() override {
    if (smollm2_path().empty()) GTEST_SKIP() << "the default model is not here (BATON_SMOLLM2)";
    if (shared_model("text/opticks.txt").empty()) GTEST_SKIP() << "shared/models is not here (BATON_SHARED)";
    const auto text = worker::read_text_file(shared_model("text/opticks.txt"), 1 << 20);
    ASSERT_TRUE(text.ok()) << text.status();
    auto model_text = text::load_model_text(smollm2_path());
    ASSERT_TRUE(model_text.ok()) << model_text.status();
    auto ids = model_text->tokenizer->encode(*text, {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << ids.status();
    ids_ = *std::move(ids);
    ASSERT_EQ(ids_.size(), 2u * kWindow);
    const auto golden =
        worker::read_text_file(shared_model("golden/smollm2-135m-q4_1.json"), size_t{64} << 20);
    ASSERT_TRUE(golden.ok());
    const auto root = boost::json::parse(*golden);
    const auto& perplexity = root.at("perplexity");
    mean_nll_ = perplexity.at("mean_nll").to_number<double>();
    for (const auto& x : perplexity.at("mean_nll_per_256").at(0).as_array())
      first_window_.push_back(x.to_number<double>());
  }

  // Mean negative log likelihood of the first `count` predictions of a window.
  static double mean_nll(ModelUnderTest& engine, std::span<const TokenId> window, int count) {
    std::vector<int32_t> wanted(count);
    for (int i = 0; i < count; ++i) wanted[i] = i;
    double sum = 0;
    engine.forward(window.first(count), wanted, [&](int32_t position, std::span<const float> logits) {
      sum += testing::log_sum_exp(logits) - logits[window[position + 1]];
    });
    return sum / count;
  }

  // All of it when slow tests are on, else the first 256 predictions. The contract of the CPU backend fixes
  // every bit of the logits: of the short stretch it is `exact` too.
  void check(const EngineSetup& setup, double tolerance, std::optional<double> exact = std::nullopt) {
    auto engine = ModelUnderTest::open(smollm2_path(), setup);
    ASSERT_TRUE(engine.ok()) << engine.status();
    const std::span<const TokenId> ids = ids_;
    double nll = 0;
    double want = first_window_[0];
    if (slow_tests()) {
      want = mean_nll_;
      for (int w = 0; w < 2; ++w)
        nll += mean_nll(**engine, ids.subspan(w * kWindow, kWindow), kWindow - 1) / 2;
    } else {
      nll = mean_nll(**engine, ids, 256);
      if (exact.has_value()) expect_exact(nll, *exact, (*engine)->backend().numerics_id(setup.kv));
    }
    EXPECT_NEAR(std::exp(nll - want), 1.0, tolerance);
    std::cout << "perplexity " << std::exp(nll) << ", float64 " << std::exp(want)
              << (slow_tests() ? "" : " (256 predictions; all 4,094 with BATON_SLOW=1)") << "\n";
  }

  // Up to what another exp() and log() in double would change.
  static void expect_exact(double nll, double want, const std::string& id) {
    EXPECT_NEAR(nll, want, 1e-12)
        << std::setprecision(17) << "is " << nll << ", was " << want
        << ": bits changed: raise the contract version in kernels/cpu/cpu_backend.cc (" << id
        << ") and then this figure";
  }

  std::vector<TokenId> ids_;
  double mean_nll_ = 0;
  std::vector<double> first_window_;
};

TEST_F(Perplexity, ReferenceIsExact) { check({}, 1e-4); }

TEST_F(Perplexity, CpuWithBrainDots) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.threads = 2;
  setup.kv = kernels::KvType::kBF16;
  setup.numerics = kernels::Numerics::kBrainDots;
  check(setup, slow_tests() ? 0.01 : 0.03, 3.5815760913141443);
}

TEST_F(Perplexity, CpuWithInt8Kv) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.threads = 2;
  setup.kv = kernels::KvType::kInt8;
  // 0.9 % over the whole text, 4.5 % over its first 256 predictions: a short stretch scatters.
  check(setup, slow_tests() ? 0.01 : 0.06, 3.6070768922607011);
}

TEST_F(Perplexity, CpuWithInt8Activations) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.threads = 2;
  setup.kv = kernels::KvType::kBF16;
  // 1 % over the whole text; a short stretch scatters more.
  check(setup, slow_tests() ? 0.01 : 0.03, 3.5656725421554261);
}

}  // namespace
}  // namespace baton
