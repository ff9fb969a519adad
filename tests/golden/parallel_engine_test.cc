// The whole engine over ranks: scheduler, prefix cache, chunks and preemption in a pool that is too small,
// every kind of sampling. Each request's tokens and logprobs are those of one rank.
#include <gmock/gmock.h>

#include <map>

#include "base/check.h"
#include "base/rng.h"
#include "tests/golden/answered_streams.h"
#include "tests/golden/model_under_test.h"
#include "tests/golden/random_file.h"
#include "tests/golden/ring_masks.h"
#include "worker/engine/engine_loop.h"
#include "worker/kv_cache/no_exchange.h"

namespace baton {
namespace {

using testing::EngineSetup;
using testing::ModelUnderTest;
using testing::Stream;
using worker::ParallelShape;

constexpr int64_t kVocab = 500;
constexpr int64_t kBlocks = 12;
constexpr int kRequests = 24;

GenerateRequest make_request(int i, Rng& rng) {
  GenerateRequest request{.id = RequestId(static_cast<uint64_t>(i + 1))};
  const uint64_t family = rng.below(3);  // prompts of a family begin alike
  Rng shared(family);
  for (uint64_t n = 1 + rng.below(90), k = 0; k < n; ++k)
    request.prompt.push_back(static_cast<TokenId>((k < 40 ? shared : rng).below(kVocab)));
  request.stop.max_tokens = static_cast<int32_t>(1 + rng.below(40));
  SamplingParams& s = request.sampling;
  s.seed = rng.next();
  s.temperature = i % 3 == 0 ? 0.0f : 0.8f;
  if (i % 3 == 1) s.top_k = 20;
  if (i % 5 == 2) s.top_p = 0.9f;
  if (i % 4 == 1) s.logprobs = 2;
  if (i % 6 == 3) s.presence_penalty = 0.5f;
  if (i % 8 == 5) s.prompt_logprobs = 0;
  if (i % 7 == 2) request.stop.min_tokens = 3, request.stop.end_token_ids = {7};
  if (i % 7 == 3) s.repetition_penalty = 1.3f, s.frequency_penalty = 0.2f;
  if (i % 7 == 4) s.logit_bias = {{11, 2.5f}, {12, -100.0f}, {499, 1.0f}};
  if (i % 7 == 5) s.min_p = 0.01f;
  if (i % 11 == 6) s.temperature = 2, s.top_k = 300;
  if (i % 5 == 4) request.grammar = {GrammarKind::kLark, std::string(static_cast<size_t>(i), 'x')};
  return request;
}

class Served {
 public:
  Served(ModelUnderTest& group, int plans_in_flight)
      : engine_({.blocks = kBlocks, .block_tokens = 16, .scheduler = scheduler(plans_in_flight)}, exchange_),
        loop_({engine_, group.runner(), mailbox_, clock_},
              [this](std::vector<WorkerMessage>& messages) { answered_.take(messages); }) {
    BATON_CHECK(mailbox_.post(worker::SetHashKey{{1, 2}}));
  }
  std::map<uint64_t, Stream> run() {
    Rng rng(42);
    for (int i = 0; i < kRequests; ++i)
      BATON_CHECK(mailbox_.post(CoordinatorMessage(Submit{.request = make_request(i, rng)})));
    for (int turn = 0; answered_.ended < kRequests && turn < 20'000; ++turn)
      BATON_CHECK(loop_.do_work(clock_.now()).ok());
    engine_.check_invariants();
    return answered_.streams;
  }
  const worker::Engine& engine() const { return engine_; }

 private:
  static worker::SchedulerOptions scheduler(int plans_in_flight) {
    worker::SchedulerOptions options;
    options.plans_in_flight = plans_in_flight;
    options.context_tokens = 256;
    options.token_budget = 48;
    options.max_running = 16;
    options.headroom_tokens = 0;
    return options;
  }

  SteadyClock clock_;
  worker::NoExchange exchange_;
  worker::Engine engine_;
  worker::EngineMailbox mailbox_{64};
  worker::EngineLoop loop_;
  testing::AnsweredStreams answered_;
};

testing::RandomModelOptions small_model() {
  return {.vocab = kVocab,
          .hidden = 128,
          .ffn = 512,
          .layers = 3,
          .heads = 8,
          .kv_heads = 4,
          .head_dim = 64,
          .matrix = DType::kQ8_0,
          .embedding = DType::kQ8_0,
          .seed = 21};
}

EngineSetup group_setup() {
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.blocks = kBlocks;
  setup.max_rows = 48;
  setup.micro_batch_rows = 8;
  setup.full_logits = false;
  return setup;
}

TEST(ParallelEngine, EveryRequestIsThatOfOneRank) {
  const testing::RandomFile model(small_model());
  EngineSetup setup = group_setup();
  testing::RingMasks rings(kVocab);
  setup.masks = &rings;
  std::map<uint64_t, Stream> want;
  // The shape, and how many plans are in flight.
  for (const auto& [shape, plans] : std::vector<std::pair<ParallelShape, int>>{{{1, 1}, 1},
                                                                               {{2, 1}, 1},
                                                                               {{4, 1}, 1},
                                                                               {{8, 1}, 1},
                                                                               {{1, 2}, 1},
                                                                               {{1, 2}, 2},
                                                                               {{2, 2, {1, 2}}, 2},
                                                                               {{4, 2}, 2},
                                                                               {{1, 3}, 3},
                                                                               {{1, 2}, 4}}) {
    setup.shape = shape;
    auto group = ModelUnderTest::open(model.path(), setup);
    ASSERT_TRUE(group.ok()) << group.status();
    Served served(**group, plans);
    const std::map<uint64_t, Stream> got = served.run();
    ASSERT_EQ(got.size(), static_cast<size_t>(kRequests));
    EXPECT_GT(served.engine().counters().preemptions, 0u);
    EXPECT_GT(served.engine().counters().prefix_hit_tokens, 0u);
    if (want.empty()) want = got;
    for (const auto& [id, stream] : want)
      EXPECT_TRUE(got.at(id) == stream) << "request " << id << " over tensor " << shape.tensor << " pipeline "
                                        << shape.pipeline << " with " << plans << " plans in flight";
  }
  Rng rng(42);
  for (int i = 0; i < kRequests; ++i) {
    const GenerateRequest request = make_request(i, rng);
    std::vector<TokenId> answer;
    for (const TokenOutput& output : want.at(request.id.value()).tokens) {
      EXPECT_TRUE(request.grammar.empty() || rings.allows(request.grammar, answer, output.token))
          << "request " << i;
      answer.push_back(output.token);
    }
  }
}

// What the ranks of the last stage send to rank 0: 8 bytes of a step, and of each row ...
TEST(ParallelEngine, ColumnsTravelOnlyForLogprobs) {
  const testing::RandomFile model(small_model());
  struct Case {
    SamplingParams sampling;
    uint64_t bytes;  // ... so many of each rank, of two
  };
  const std::vector<Case> cases = {
      {{.temperature = 1}, 8},
      {{.temperature = 0.7f, .top_p = 0.9f, .min_p = 0.01f}, 8},
      {{.temperature = 1, .repetition_penalty = 1.2f, .presence_penalty = 0.5f}, 8},
      {{.temperature = 1, .logit_bias = {{3, 1.0f}}}, 8},
      {{.temperature = 0, .frequency_penalty = 0.5f}, 8},
      {{.temperature = 1, .top_k = 20, .presence_penalty = 0.5f}, 160},
      {{.temperature = 1, .logprobs = 0}, 1000},
      // What only the sampler may judge.
      {{.temperature = 1, .presence_penalty = 1e30f}, 1000},
      {{.temperature = 0, .logit_bias = {{3, 1.0f}, {3, 1.0f}}}, 1000},
  };
  for (const ParallelShape& shape : {ParallelShape{2, 1}, ParallelShape{2, 2}}) {
    EngineSetup setup = group_setup();
    setup.shape = shape;
    auto group = ModelUnderTest::open(model.path(), setup);
    ASSERT_TRUE(group.ok()) << group.status();
    uint64_t want = 2 * 8;
    std::vector<worker::Sequence> sequences;
    for (const Case& c : cases) {
      sequences.push_back((*group)->make_sequence({5, 6, 7}));
      sequences.back().request.sampling = c.sampling;
      want += 2 * c.bytes;
    }
    std::vector<worker::PlannedRows> rows;
    for (const worker::Sequence& sequence : sequences) rows.push_back({&sequence, 0, 3, true, false});
    for (const worker::SampledRow& row : (*group)->run(rows).sampled) EXPECT_TRUE(row.token.has_value());
    EXPECT_EQ((*group)->runner().collected_bytes(), want);
  }
}

}  // namespace
}  // namespace baton
