// The whole engine over a device that runs behind the host: steps are launched before the tokens of the one
// before are known, and every request has the tokens of an engine that waits for each step. Built twice, as
// cuda_model_test.cc.
#include <gmock/gmock.h>

#include <map>

#include "base/check.h"
#include "base/rng.h"
#include "tests/golden/answered_streams.h"
#include "tests/golden/model_under_test.h"
#include "tests/golden/ring_masks.h"
#include "tests/kernels/cuda/late_device.h"
#include "tests/support/random_model.h"
#include "tests/support/seed.h"
#include "tests/worker/model/temp_dir.h"
#include "worker/engine/engine_loop.h"
#include "worker/kv_cache/no_exchange.h"

namespace baton::kernels::cuda {
namespace {

using baton::testing::AnsweredStreams;
using baton::testing::EngineSetup;
using baton::testing::ModelUnderTest;
using baton::testing::RandomModel;
using baton::testing::Stream;
using baton::testing::TempDir;

constexpr int64_t kVocab = 160;
constexpr int64_t kBlocks = 5;

GenerateRequest random_request(uint64_t id, Rng& rng) {
  GenerateRequest request{.id = RequestId(id)};
  for (uint64_t n = 1 + rng.below(50), k = 0; k < n; ++k)
    request.prompt.push_back(static_cast<TokenId>(k < 16 ? k : rng.below(kVocab)));
  request.stop.max_tokens = static_cast<int32_t>(1 + rng.below(20));
  SamplingParams& s = request.sampling;
  s.seed = rng.next();
  s.temperature = rng.below(3) == 0 ? 0.0f : 1.0f;
  if (rng.below(4) == 0) s.top_k = 20;
  if (rng.below(4) == 0) s.top_p = 0.9f;
  if (rng.below(4) == 0) s.logprobs = 2;
  if (rng.below(3) == 0) s.presence_penalty = 0.5f;
  if (rng.below(4) == 0) s.repetition_penalty = 1.3f;
  if (rng.below(6) == 0) s.prompt_logprobs = 0;
  if (rng.below(2) == 0)
    for (TokenId t = 0; t < 20; ++t) request.stop.end_token_ids.push_back(t * 8);
  if (rng.below(3) == 0) request.stop.min_tokens = 3;
  if (rng.below(5) == 0) request.grammar = {GrammarKind::kLark, std::string(1 + rng.below(9), 'x')};
  return request;
}

// Counts the rows that were fed.
class Watched final : public worker::StepExecutor {
 public:
  explicit Watched(worker::ModelRunner& runner) : runner_(runner) {}
  absl::Status start(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                     worker::StepResult& result) override {
    for (const worker::PlannedRows& rows : plan.rows) {
      fed += rows.fed_by >= 0;
      EXPECT_TRUE(rows.fed_by < 0 || rows.sequence->request.grammar.empty());
      fed_with_logprobs += rows.fed_by >= 0 && rows.sequence->request.sampling.logprobs >= 0;
    }
    return runner_.start(plan, on_layer, result);
  }
  absl::Status finish(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                      worker::StepResult& result) override {
    return runner_.finish(plan, on_layer, result);
  }
  int fed = 0, fed_with_logprobs = 0;

 private:
  worker::ModelRunner& runner_;
};

struct Outcome {
  std::map<uint64_t, Stream> streams;
  int fed = 0, fed_with_logprobs = 0;
  uint64_t preemptions = 0;
};

// Requests that come between turns, which the seed decides.
class Served {
 public:
  explicit Served(ModelUnderTest& model)
      : executor_(model.runner()),
        engine_({.blocks = kBlocks, .block_tokens = 16, .scheduler = scheduler(model)}, exchange_),
        loop_({engine_, executor_, mailbox_, clock_},
              [this](std::vector<WorkerMessage>& messages) { answered_.take(messages); }) {
    BATON_CHECK(mailbox_.post(worker::SetHashKey{{1, 2}}));
  }
  Outcome run(uint64_t seed, uint64_t requests) {
    Rng rng(seed), arrivals(seed + 1);
    for (uint64_t id = 1; id <= requests; ++id) {
      BATON_CHECK(mailbox_.post(CoordinatorMessage(Submit{.request = random_request(id, rng)})));
      for (uint64_t turns = arrivals.below(3); turns > 0; --turns) turn();
    }
    for (int turns = 0; answered_.ended < requests && turns < 2000; ++turns) turn();
    engine_.check_invariants();
    EXPECT_TRUE(engine_.idle() || engine_.oldest() != nullptr);
    return {std::move(answered_.streams), executor_.fed, executor_.fed_with_logprobs,
            engine_.counters().preemptions};
  }

 private:
  static worker::SchedulerOptions scheduler(ModelUnderTest& model) {
    worker::SchedulerOptions options;
    options.feeds_back = model.runner().feeds_back();
    options.plans_in_flight = options.feeds_back != nullptr ? 2 : 1;
    options.context_tokens = 128;
    options.token_budget = 40;
    options.max_running = 8;
    options.headroom_tokens = 0;
    return options;
  }
  void turn() {
    const auto worked = loop_.do_work(clock_.now());
    BATON_CHECK(worked.ok(), "a step failed");
  }

  Watched executor_;
  SteadyClock clock_;
  worker::NoExchange exchange_;
  worker::Engine engine_;
  worker::EngineMailbox mailbox_{64};
  worker::EngineLoop loop_;
  AnsweredStreams answered_;
};

class CudaAhead : public ::testing::Test {
 protected:
  void SetUp() override {
    make_device_late(false);
    const auto backend = make_backend({.device = "cuda", .numerics = Numerics::kBrainDots});
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status().message();
    ASSERT_TRUE(backend.ok()) << backend.status();
  }
  void TearDown() override {
    make_device_late(false);
    for (const char* name : {"BATON_CUDA_AHEAD", "BATON_CUDA_GRAPHS", "BATON_CUDA_PDL"}) ::unsetenv(name);
  }
  Outcome serve(uint64_t seed, uint64_t requests) {
    EngineSetup setup;
    setup.device = "cuda";
    setup.numerics = Numerics::kBrainDots;
    setup.kv = KvType::kBF16;
    setup.blocks = kBlocks;
    setup.max_rows = 40;
    setup.full_logits = false;
    setup.masks = &masks_;
    auto model = ModelUnderTest::open(dir_.file("m.gguf"), setup);
    BATON_CHECK(model.ok(), "no model");
    return Served(**model).run(seed, requests);
  }
  TempDir dir_{"cuda_ahead"};
  baton::testing::RingMasks masks_{kVocab};
};

TEST_F(CudaAhead, TokensAreThoseOfADeviceThatIsWaitedFor) {
  ASSERT_TRUE(RandomModel({.ffn = 172}).write_gguf(dir_.file("m.gguf")));
  const uint64_t seed = support::seed_or(11);
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed);
  constexpr uint64_t kRequests = 24;
  ::setenv("BATON_CUDA_AHEAD", "0", 1);
  const Outcome want = serve(seed, kRequests);
  ::unsetenv("BATON_CUDA_AHEAD");
  ASSERT_EQ(want.streams.size(), kRequests);
  EXPECT_EQ(want.fed, 0);
  for (const bool graphs : {true, false}) {
    ::setenv("BATON_CUDA_GRAPHS", graphs ? "1" : "0", 1);
    ::setenv("BATON_CUDA_PDL", graphs ? "0" : "1", 1);
    make_device_late(true);
    const int launched = graphs_launched();
    const Outcome got = serve(seed, kRequests);
    for (const auto& [id, stream] : want.streams)
      EXPECT_TRUE(got.streams.at(id) == stream) << "request " << id << (graphs ? ", graphs" : ", eager");
    EXPECT_GT(got.fed, 50) << "the test says little";
    EXPECT_GT(got.fed_with_logprobs, 5);
    EXPECT_GT(got.preemptions + support::given_seed().has_value(), 0u);
    EXPECT_EQ(graphs_launched() > launched, graphs && launched >= 0);
  }
}

}  // namespace
}  // namespace baton::kernels::cuda
