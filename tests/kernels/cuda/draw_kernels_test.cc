// Drawing on the device, emulated, against the host's sampler: the same token for random logits and
// parameters.
#include "tests/kernels/cuda/kernel_fixture.h"

#include "worker/model/device_draw.h"
#include "worker/model/sampler.h"

namespace baton::kernels::cuda {
namespace {

using worker::DeviceDraw;
using worker::Sampler;
using worker::SamplerInput;

// Rows of one vocabulary, each with its own parameters.
struct Rows {
  int vocab;
  std::vector<float> logits;
  std::vector<std::vector<TokenId>> tokens;
  std::vector<int32_t> prompt_tokens;
  std::vector<SamplingParams> sampling;
  std::vector<StopParams> stop;

  size_t count() const { return tokens.size(); }
  SamplerInput input(size_t i) const {
    return {std::span(logits).subspan(i * vocab, vocab), tokens[i], prompt_tokens[i], &sampling[i], &stop[i]};
  }
};

struct Drawn {
  std::vector<DrawnToken> tokens;
  std::vector<DrawReport> reports;
};

// `fed`: the last token of an output is known to the device only, as the row's own.
Drawn draw(const Rows& rows, bool fed = false) {
  DeviceDraw describe(rows.vocab);
  std::vector<DrawRow> draws;
  std::vector<LogitChange> changes;
  std::vector<int32_t> own, logit_rows;
  for (size_t i = 0; i < rows.count(); ++i) {
    SamplerInput input = rows.input(i);
    const bool unknown = fed && input.tokens.size() > static_cast<size_t>(input.prompt_tokens);
    own.push_back(input.tokens.back());
    logit_rows.push_back(static_cast<int32_t>(i));
    if (unknown) input.tokens = input.tokens.first(input.tokens.size() - 1);
    draws.push_back(describe.describe(input, unknown ? 1 : 0, changes));
  }
  std::vector<float> logits = rows.logits;
  Drawn out{std::vector<DrawnToken>(rows.count()), std::vector<DrawReport>(rows.count())};
  std::vector<int32_t> counts(kStepCounts, static_cast<int32_t>(rows.count()));
  StepTables step;
  step.counts = counts.data(), step.draws = draws.data(), step.changes = changes.data();
  step.tokens = own.data(), step.logit_rows = logit_rows.data();
  const DrawArgs args = {logits.data(), rows.vocab, out.tokens.data(), out.reports.data()};
  // One block more than there are rows, as in a bucket that is not full.
  emulated::launch({static_cast<unsigned>(rows.count()) + 1}, kDrawThreads, sizeof(DrawScratch),
                   [&] { draw_kernel(step, args); });
  return out;
}

// Logits of several kinds: spread as a model's, few values with many ties, and far apart.
std::vector<float> random_logits(int vocab, Random& random) {
  const int kind = random.between(0, 3);
  std::vector<float> logits = random.floats(vocab, kind == 2 ? 100.0f : 4.0f);
  for (float& x : logits) {
    if (kind == 1) x = std::round(x);
    if (kind == 3) x = -0.0f + 1e-6f * std::round(x);
  }
  return logits;
}

float one_of(std::initializer_list<float> values, Random& random) {
  return *(values.begin() + random.between(0, static_cast<int>(values.size()) - 1));
}

SamplingParams random_params(int vocab, Random& random) {
  SamplingParams s;
  s.temperature = one_of({0, 0.3f, 1, 1, 2}, random);
  s.top_p = one_of({1, 1, 0, 0.1f, 0.5f, 0.9f, 0.999f}, random);
  s.min_p = one_of({0, 0, 0, 0.05f, 0.5f, 1, 2}, random);
  s.top_k = random.between(0, 2) == 0 ? random.between(1, 2 * vocab) : random.between(0, 1) * 5;
  s.logprobs = random.between(0, 1) * random.between(0, DrawReport::kMostTop) - random.between(0, 1);
  s.seed = static_cast<uint64_t>(random.between(0, 1 << 30)) << 20;
  if (random.between(0, 2) == 0) s.repetition_penalty = one_of({0.8f, 1.3f}, random);
  if (random.between(0, 2) == 0) s.frequency_penalty = one_of({-0.3f, 0.4f}, random);
  if (random.between(0, 2) == 0) s.presence_penalty = one_of({-0.5f, 0.7f}, random);
  for (int i = random.between(0, 3) - 1; i > 0; --i)
    s.logit_bias.push_back({i * 7 % vocab, one_of({-100, -1, 3, 100}, random)});
  return s;
}

void add_row(Rows& rows, Random& random) {
  const std::vector<float> logits = random_logits(rows.vocab, random);
  rows.logits.insert(rows.logits.end(), logits.begin(), logits.end());
  auto& tokens = rows.tokens.emplace_back(random.between(1, 40));
  for (TokenId& t : tokens) t = random.between(0, rows.vocab - 1);
  rows.prompt_tokens.push_back(random.between(1, static_cast<int>(tokens.size())));
  rows.sampling.push_back(random_params(rows.vocab, random));
  StopParams& stop = rows.stop.emplace_back();
  if (random.between(0, 1) == 0)
    stop.min_tokens = 100, stop.end_token_ids = {0}, stop.stop_token_ids = {2, 2, 900000};
}

// Log-probabilities of `report` are those of the sampler, but for the rounding of a sum; so are the likeliest
// tokens.
void expect_report(const DrawReport& report, const SamplingParams& s, const TokenOutput& want, int vocab) {
  TokenOutput got{.token = want.token, .logprob = 0, .top = {}};
  DeviceDraw::report(report, std::min(s.logprobs, vocab), got);
  const auto near = [](float a, float b) { return std::abs(a - b) <= 2e-7f * std::max(1.0f, std::abs(b)); };
  EXPECT_TRUE(near(got.logprob, want.logprob)) << got.logprob << ", host " << want.logprob;
  ASSERT_EQ(got.top.size(), want.top.size());
  for (size_t i = 0; i < want.top.size(); ++i) {
    EXPECT_EQ(got.top[i].token, want.top[i].token) << i;
    EXPECT_EQ(got.top[i].rank, want.top[i].rank);
    EXPECT_TRUE(near(got.top[i].logprob, want.top[i].logprob)) << i;
  }
}

class Draw : public testing::TestWithParam<int> {};

TEST_P(Draw, TakesTheTokenOfTheSampler) {
  Random random(21);
  SCOPED_TRACE(random.seed());
  Rows rows{.vocab = GetParam()};
  for (int i = 0; i < 40; ++i) add_row(rows, random);
  Sampler sampler(rows.vocab);
  const Drawn own = draw(rows), told = draw(rows, true);
  const std::vector<DrawnToken>&drawn = own.tokens, &fed = told.tokens;
  int different_from_greedy = 0, reported = 0;
  for (size_t i = 0; i < rows.count(); ++i) {
    TokenOutput want;
    const absl::Status status = sampler.sample(rows.input(i), want);
    ASSERT_EQ(drawn[i].state == DrawnToken::kDrawn, status.ok()) << i << ": " << status;
    ASSERT_EQ(fed[i].state, drawn[i].state) << i;
    ASSERT_EQ(fed[i].token, drawn[i].token) << "row " << i << ", its last token fed";
    if (!status.ok()) continue;
    const SamplingParams& s = rows.sampling[i];
    ASSERT_EQ(drawn[i].token, want.token) << "row " << i << ", temperature " << s.temperature << ", top_p "
                                          << s.top_p << ", top_k " << s.top_k << ", min_p " << s.min_p;
    if (s.logprobs >= 0) {
      ++reported;
      SCOPED_TRACE(testing::Message() << "row " << i);
      expect_report(own.reports[i], s, want, rows.vocab);
      expect_report(told.reports[i], s, want, rows.vocab);
    }
    const auto logits = rows.input(i).logits;
    different_from_greedy += logits[want.token] != *std::ranges::max_element(logits);
  }
  EXPECT_GT(different_from_greedy, 5) << "the test draws nothing";
  EXPECT_GT(reported, 5);
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, Draw, testing::Values(5, 160, 1000, 4099));

TEST(DrawKernel, LeavesToTheHostWhatItAskedFor) {
  Random random(22);
  Rows rows{.vocab = 64};
  for (int i = 0; i < 3; ++i) add_row(rows, random);
  for (SamplingParams& s : rows.sampling) s = {.temperature = 0};
  rows.sampling[0].logprobs = DrawReport::kMostTop + 1;
  rows.sampling[1].logit_bias = {{64, 1.0f}};  // the sampler says what is wrong with it
  const std::vector<DrawnToken> drawn = draw(rows).tokens;
  EXPECT_EQ(drawn[0].state, DrawnToken::kNone);
  EXPECT_EQ(drawn[1].state, DrawnToken::kNone);
  EXPECT_EQ(drawn[2].state, DrawnToken::kDrawn);
}

TEST(DrawKernel, NamesLogitsThatAreNotFinite) {
  Random random(23);
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    Rows rows{.vocab = 300};
    add_row(rows, random);
    rows.sampling[0] = {.temperature = 1};
    rows.logits[random.between(0, 299)] = bad;
    EXPECT_EQ(draw(rows).tokens[0].state, DrawnToken::kNotFinite);
  }
  Rows masked{.vocab = 2};
  add_row(masked, random);
  masked.sampling[0] = {.temperature = 1};
  masked.logits = {1, 2};
  masked.stop[0] = {.min_tokens = 100, .end_token_ids = {0, 1}};
  EXPECT_EQ(draw(masked).tokens[0].state, DrawnToken::kNothingLeft);
}

}  // namespace
}  // namespace baton::kernels::cuda
