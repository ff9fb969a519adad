#include "worker/model/sampler.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iostream>
#include <limits>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "kernels/logit_blocks.h"
#include "tests/worker/model/allocation_count.h"
#include "worker/model/logit_loops.h"

namespace baton::worker {
namespace {

using ::testing::HasSubstr;

using logit_loops::fixed_exp;

constexpr float kInf = std::numeric_limits<float>::infinity();

// Builds inputs; `prompt` and `output` are what came before the drawn token.
struct Draw {
  std::vector<float> logits;
  std::vector<TokenId> prompt = {0};
  std::vector<TokenId> output;
  SamplingParams sampling;
  StopParams stop;
  std::vector<TokenId> tokens;

  SamplerInput input() {
    tokens = prompt;
    tokens.insert(tokens.end(), output.begin(), output.end());
    return {logits, tokens, static_cast<int32_t>(prompt.size()), &sampling, &stop};
  }
  TokenOutput run() {
    Sampler sampler(static_cast<int64_t>(logits.size()));
    TokenOutput out;
    const absl::Status status = sampler.sample(input(), out);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }
  std::string error() {
    Sampler sampler(static_cast<int64_t>(logits.size()));
    TokenOutput out;
    const absl::Status status = sampler.sample(input(), out);
    return status.ok() ? "accepted" : std::string(status.message());
  }
};

std::vector<float> random_logits(Rng& rng, size_t count, double spread) {
  std::vector<float> logits(count);
  for (float& x : logits) x = static_cast<float>((rng.next_double() + rng.next_double() - 1) * spread);
  return logits;
}

// The definition, with a full sort and libm: the set that may be drawn and its weights, most likely first.
std::vector<std::pair<TokenId, double>> kept_by_definition(const std::vector<float>& logits,
                                                           const SamplingParams& s) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  if (s.top_k > 0 && size_t(s.top_k) < order.size()) order.resize(s.top_k);
  std::vector<std::pair<TokenId, double>> kept;
  for (const TokenId id : order) {
    const double w = std::exp((double{logits[id]} - logits[order[0]]) / s.temperature);
    if (w >= s.min_p) kept.emplace_back(id, w);
  }
  double total = 0;
  for (const auto& [id, w] : kept) total += w;
  double mass = 0;
  size_t count = 0;
  while (count < kept.size() && (count == 0 || mass < s.top_p * total)) mass += kept[count++].second;
  kept.resize(count);
  return kept;
}

TokenId draw_by_definition(std::vector<std::pair<TokenId, double>> kept, uint64_t seed, uint64_t position) {
  std::sort(kept.begin(), kept.end());
  double total = 0;
  for (const auto& [id, w] : kept) total += w;
  const double target = uniform(seed, position) * total;
  double sum = 0;
  for (const auto& [id, w] : kept)
    if ((sum += w) > target) return id;
  return kept.back().first;
}

TEST(FixedExp, FollowsExp) {
  EXPECT_EQ(fixed_exp(0), 1.0);
  EXPECT_EQ(fixed_exp(-800), 0.0);
  EXPECT_EQ(fixed_exp(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(fixed_exp(std::nan("")), 0.0);
  for (double x = 0; x > -600; x -= 0.0371) EXPECT_NEAR(fixed_exp(x) / std::exp(x), 1.0, 1e-14) << x;
}

// The clones for vector units against the plain loops, element by element and bit by bit.
TEST(LogitLoops, AreThePlainLoops) {
  constexpr uint64_t kSeed = 31;
  std::cout << "seed " << kSeed << "\n";
  Rng rng(kSeed);
  for (const size_t size : {1, 3, 7, 8, 9, 255, 256, 257, 1000, 49152}) {
    std::vector<float> logits = random_logits(rng, size, 700);
    logits[rng.below(size)] = -0.0f;
    std::vector<float> maxima((size + 255) / 256);
    ASSERT_TRUE(kernels::block_maxima(logits, maxima.data()));
    for (size_t b = 0; b < maxima.size(); ++b) {
      const auto end = logits.begin() + std::min(size, 256 * (b + 1));
      ASSERT_EQ(maxima[b], *std::max_element(logits.begin() + 256 * b, end));
    }
    const double max = *std::ranges::max_element(maxima);
    const float floor = static_cast<float>(max) - 300;
    std::vector<float> values(size), plain_values;
    std::vector<int32_t> ids(size), plain_ids;
    const size_t count = logit_loops::gather_above(logits, maxima.data(), floor, values.data(), ids.data());
    for (size_t i = 0; i < size; ++i)
      if (logits[i] >= floor) plain_values.push_back(logits[i]), plain_ids.push_back(int32_t(i));
    values.resize(count), ids.resize(count);
    ASSERT_EQ(values, plain_values);
    ASSERT_EQ(ids, plain_ids);
    std::vector<double> weights(size);
    logit_loops::exp_weights(logits, max, 0.8f, weights.data());
    double sums[4], plain[4] = {0, 0, 0, 0};
    logit_loops::exp_sums(logits, max, sums);
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(weights[i], fixed_exp((logits[i] - max) / double{0.8f})) << logits[i];
      plain[i % 4] += fixed_exp(logits[i] - max);
    }
    for (int k = 0; k < 4; ++k) ASSERT_EQ(sums[k], plain[k]);
    std::vector<uint32_t> words((size + 31) / 32 - rng.below(2));
    for (uint32_t& word : words) word = static_cast<uint32_t>(rng.next());
    std::vector<float> allowed(size);
    logit_loops::copy_allowed(logits, words, allowed.data());
    for (size_t i = 0; i < size; ++i)
      ASSERT_EQ(allowed[i], i / 32 < words.size() && (words[i / 32] >> i % 32 & 1) != 0 ? logits[i] : -kInf);
    for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
      logits[rng.below(size)] = bad;
      EXPECT_FALSE(kernels::block_maxima(logits, maxima.data()));
    }
  }
}

// The tokens of 400 draws of all kinds, as one number: what it has been since the sampler was first written.
uint64_t tokens_of_many_draws(int64_t vocabulary) {
  Rng rng(99);
  Sampler sampler(vocabulary);
  const std::vector<TokenId> tokens = {1, 2, 3, 2, 1};
  const StopParams stop;
  uint64_t hash = 0xCBF29CE484222325u;
  const auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001B3u; };
  for (int i = 0; i < 400; ++i) {
    std::vector<float> logits(vocabulary);
    for (float& x : logits) x = static_cast<float>((rng.next_double() + rng.next_double() - 1) * 12);
    if (i % 5 == 0)
      for (float& x : logits) x = static_cast<float>(static_cast<int>(x));  // many ties
    SamplingParams sampling{.temperature = i % 3 == 0 ? 0.0f : 0.3f + 0.05f * static_cast<float>(i % 31)};
    if (i % 4 == 1) sampling.top_k = 1 + i % 90;
    if (i % 7 == 2) sampling.top_p = 0.5f + 0.01f * static_cast<float>(i % 50);
    if (i % 11 == 3) sampling.min_p = 0.02f;
    if (i % 6 == 4) sampling.repetition_penalty = 1.2f;
    if (i % 9 == 5) sampling.logprobs = i % 4;
    sampling.seed = rng.next();
    TokenOutput out;
    // As a head leaves them, or found by the sampler.
    std::vector<float> maxima(i % 2 * kernels::logit_blocks(vocabulary));
    if (i % 2 == 1) kernels::LogitRows{logits.data(), maxima.data()}.look_over(1, vocabulary);
    const SamplerInput input{logits, tokens, 3, &sampling, &stop, maxima};
    EXPECT_TRUE(sampler.sample(input, out).ok());
    add(static_cast<uint64_t>(out.token));
    add(std::bit_cast<uint32_t>(out.logprob));
    for (const TokenLogprob& t : out.top)
      add(static_cast<uint64_t>(t.token) << 32 | std::bit_cast<uint32_t>(t.logprob));
  }
  return hash;
}

TEST(Sampler, DrawsTheTokensItHasAlwaysDrawn) {
  EXPECT_EQ(tokens_of_many_draws(3000), 16285368877532333313u);
  EXPECT_EQ(tokens_of_many_draws(49), 179969160627333477u);
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOnTies) {
  for (const size_t size : {1, 2, 255, 256, 257, 1000, 49152}) {
    Draw d;
    d.sampling.temperature = 0;
    d.logits.assign(size, -1.0f);
    for (const size_t at : {size_t{0}, size / 3, size / 2, size - 1}) {
      Draw e = d;
      e.logits[at] = 2.0f;
      e.logits[size - 1] = 2.0f;
      EXPECT_EQ(e.run().token, static_cast<TokenId>(at)) << size;
    }
    EXPECT_EQ(d.run().token, 0);
  }
}

TEST(Sampler, MatchesTheDefinition) {
  constexpr uint64_t kSeed = 77;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Rng rng(kSeed);
  for (int round = 0; round < 400; ++round) {
    Draw d;
    d.logits = random_logits(rng, 1 + rng.below(3000), 1 + 20 * rng.next_double());
    if (rng.below(4) == 0)  // many ties
      for (float& x : d.logits) x = std::round(x);
    d.sampling.temperature = static_cast<float>(0.05 + 2 * rng.next_double());
    d.sampling.seed = rng.next();
    if (rng.below(2) != 0)
      d.sampling.top_k = static_cast<int32_t>(1 + rng.below(rng.below(2) != 0 ? 20 : 4000));
    if (rng.below(2) != 0) d.sampling.top_p = static_cast<float>(rng.next_double());
    if (rng.below(2) != 0) d.sampling.min_p = static_cast<float>(rng.next_double() * 0.3);
    d.prompt.resize(1 + rng.below(100));
    const auto kept = kept_by_definition(d.logits, d.sampling);
    EXPECT_EQ(d.run().token, draw_by_definition(kept, d.sampling.seed, d.prompt.size())) << "round " << round;
  }
}

TEST(Sampler, TheExampleOfTheHeader) {
  Draw d;
  d.logits.assign(10, -100.0f);
  d.logits[3] = 1.0f;
  d.logits[7] = d.logits[9] = 1.0f + std::log(0.5f);
  d.sampling.top_p = 0.7f;
  std::map<TokenId, int> count;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    d.sampling.seed = seed;
    ++count[d.run().token];
  }
  EXPECT_EQ(count.size(), 2u);
  EXPECT_NEAR(count[3] / 3000.0, 2.0 / 3, 0.03);
  EXPECT_NEAR(count[7] / 3000.0, 1.0 / 3, 0.03);
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  Draw d;
  d.logits = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f};
  d.sampling.temperature = 0.8f;
  double total = 0;
  for (const float x : d.logits) total += std::exp(x / 0.8);
  std::vector<int> count(5);
  Sampler sampler(5);
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    d.sampling.seed = 1000 + i;
    TokenOutput out;
    ASSERT_TRUE(sampler.sample(d.input(), out).ok());
    ++count[out.token];
  }
  double chi2 = 0;
  for (int i = 0; i < 5; ++i) {
    const double expected = kDraws * std::exp(d.logits[i] / 0.8) / total;
    chi2 += (count[i] - expected) * (count[i] - expected) / expected;
  }
  EXPECT_LT(chi2, 25);  // 4 degrees of freedom: p < 1e-4; the seeds are fixed
}

TEST(Sampler, SeedAndPositionDecide) {
  Rng rng(5);
  Draw d;
  d.logits = random_logits(rng, 500, 3);
  d.sampling.seed = 42;
  const TokenId first = d.run().token;
  EXPECT_EQ(d.run().token, first);
  std::map<TokenId, int> by_position, by_seed;
  for (int i = 0; i < 50; ++i) {
    d.prompt.assign(1 + i, 0);
    ++by_position[d.run().token];
    d.prompt.assign(1, 0);
    d.sampling.seed = 100 + i;
    ++by_seed[d.run().token];
    d.sampling.seed = 42;
  }
  EXPECT_GT(by_position.size(), 20u);
  EXPECT_GT(by_seed.size(), 20u);
}

TEST(Sampler, PenaltiesByDefinition) {
  Draw d;
  d.logits = {2.0f, -2.0f, 3.0f, 3.0f, 1.0f};
  d.prompt = {0, 1, 4};
  d.output = {2, 2};
  d.sampling.temperature = 0;
  d.sampling.repetition_penalty = 2.0f;  // 0: 1, 1: -4, 2: 1.5, 4: 0.5
  EXPECT_EQ(d.run().token, 3);
  d.logits[3] = 1.4f;
  EXPECT_EQ(d.run().token, 2);
  d.sampling.presence_penalty = 0.2f;  // 2: 1.3
  EXPECT_EQ(d.run().token, 3);
  d.logits[3] = 1.2f;
  EXPECT_EQ(d.run().token, 2);
  d.sampling.frequency_penalty = 0.1f;  // 2: 1.1
  EXPECT_EQ(d.run().token, 3);
  d.logits[3] = 1.05f;
  EXPECT_EQ(d.run().token, 2);
  d.sampling.presence_penalty = -5.0f;  // negative: an attraction
  EXPECT_EQ(d.run().token, 2);
  // The prompt alone feels neither presence nor frequency.
  Draw p;
  p.logits = {1.0f, 0.9f};
  p.prompt = {0, 0, 0};
  p.sampling.temperature = 0;
  p.sampling.presence_penalty = p.sampling.frequency_penalty = 2.0f;
  EXPECT_EQ(p.run().token, 0);
}

TEST(Sampler, PenaltiesLeaveNoTrace) {
  Draw d;
  d.logits = {1.0f, 0.9f, 0.0f};
  d.output = {0, 0};
  d.sampling.temperature = 0;
  Draw plain = d;
  d.sampling.frequency_penalty = 1.0f;
  Sampler sampler(3);
  TokenOutput out;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(sampler.sample(d.input(), out).ok());
    EXPECT_EQ(out.token, 1);
    ASSERT_TRUE(sampler.sample(plain.input(), out).ok());
    EXPECT_EQ(out.token, 0);
  }
}

TEST(Sampler, LogitBias) {
  Draw d;
  d.logits = {1.0f, 0.9f, 0.0f};
  d.sampling.temperature = 0;
  d.sampling.logit_bias = {{0, -0.5f}};
  EXPECT_EQ(d.run().token, 1);
  d.sampling.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(d.run().token, 2);
  d.sampling.temperature = 1;
  EXPECT_EQ(d.run().token, 2);
  d.sampling.logit_bias = {{3, 1.0f}};
  EXPECT_THAT(d.error(), HasSubstr("logit_bias: token 3 is not in the vocabulary of 3"));
  d.sampling.logit_bias = {{-1, 1.0f}};
  EXPECT_THAT(d.error(), HasSubstr("token -1"));
  d.sampling.logit_bias = {{0, std::nanf("")}};
  EXPECT_THAT(d.error(), HasSubstr("not a number"));
  d.sampling.logit_bias = {{0, kInf}};
  EXPECT_THAT(d.error(), HasSubstr("finite"));
}

TEST(Sampler, MinTokensMaskEndAndStopTokens) {
  Draw d;
  d.logits = {1.0f, 5.0f, 4.0f, 0.0f};
  d.sampling.temperature = 0;
  d.stop.end_token_ids = {1};
  d.stop.stop_token_ids = {2};
  EXPECT_EQ(d.run().token, 1);
  d.stop.min_tokens = 2;
  EXPECT_EQ(d.run().token, 0);
  d.output = {0};
  EXPECT_EQ(d.run().token, 0);
  d.output = {0, 0};
  EXPECT_EQ(d.run().token, 1);
  d.output = {};
  d.sampling.temperature = 1.0f;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    d.sampling.seed = seed;
    const TokenId token = d.run().token;
    EXPECT_TRUE(token == 0 || token == 3);
  }
  d.stop.stop_token_ids = {0, 2, 3};
  EXPECT_THAT(d.error(), HasSubstr("leave no finite largest logit"));
}

// Drawing inside a mask is drawing from the allowed tokens alone, at their places in the vocabulary.
TEST(Sampler, DrawsWhatIsAllowed) {
  constexpr uint64_t kSeed = 78;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  Rng rng(kSeed);
  for (int round = 0; round < 400; ++round) {
    Draw d;
    d.logits = random_logits(rng, 1 + rng.below(3000), 1 + 20 * rng.next_double());
    std::vector<uint32_t> words((d.logits.size() + 31) / 32 + rng.below(3));  // masks may be wider
    const uint64_t share = 1 + rng.below(rng.below(2) != 0 ? 3 : 1000);
    for (uint32_t& word : words)
      for (int i = 0; i < 32; ++i) word |= uint32_t{rng.below(share) == 0} << i;
    words[rng.below(d.logits.size()) / 32] = ~0u;
    d.sampling.temperature = rng.below(4) == 0 ? 0 : static_cast<float>(0.05 + 2 * rng.next_double());
    d.sampling.seed = rng.next();
    if (rng.below(2) != 0) d.sampling.top_k = static_cast<int32_t>(1 + rng.below(60));
    if (rng.below(2) != 0) d.sampling.top_p = static_cast<float>(rng.next_double());
    Draw allowed = d;
    std::vector<TokenId> ids;
    allowed.logits.clear();
    for (size_t id = 0; id < d.logits.size(); ++id)
      if ((words[id / 32] >> (id % 32) & 1) != 0) {
        ids.push_back(static_cast<TokenId>(id));
        allowed.logits.push_back(d.logits[id]);
      }
    SamplerInput input = d.input();
    input.allowed.words = words;
    TokenOutput out;
    ASSERT_TRUE(Sampler(static_cast<int64_t>(d.logits.size())).sample(input, out).ok());
    EXPECT_EQ(out.token, ids[static_cast<size_t>(allowed.run().token)]) << "round " << round;
  }
}

TEST(Sampler, AGrammarEndsTheAnswerBeforeMinTokens) {
  Draw d;
  d.logits = {1.0f, 5.0f, 4.0f};
  d.sampling.temperature = 0;
  d.stop = {.min_tokens = 2, .end_token_ids = {1}};
  const auto drawn = [&](uint32_t word, bool only_ends) {
    SamplerInput input = d.input();
    input.allowed = {.words = std::span(&word, 1), .only_ends = only_ends};
    TokenOutput out;
    const absl::Status status = Sampler(3).sample(input, out);
    return status.ok() ? out.token : -1;
  };
  EXPECT_EQ(drawn(0b011, false), 0);
  EXPECT_EQ(drawn(0b010, true), 1);
  EXPECT_EQ(drawn(0b000, false), -1);
  d.sampling.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(drawn(0b001, false), 0) << "no bias brings back what is not allowed";
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  Rng rng(9);
  Draw d;
  d.logits = random_logits(rng, 700, 8);
  d.sampling.temperature = 0.3f;
  d.sampling.top_k = 2;
  d.sampling.repetition_penalty = 1.5f;
  d.sampling.logprobs = 5;
  const TokenOutput out = d.run();
  double sum = 0;
  for (const float x : d.logits) sum += std::exp(double{x});
  EXPECT_NEAR(out.logprob, d.logits[out.token] - std::log(sum), 1e-5);
  std::vector<float> sorted = d.logits;
  std::sort(sorted.rbegin(), sorted.rend());
  ASSERT_EQ(out.top.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(out.top[i].rank, i);
    EXPECT_EQ(d.logits[out.top[i].token], sorted[i]);
    EXPECT_NEAR(out.top[i].logprob, sorted[i] - std::log(sum), 1e-5);
    if (out.top[i].token == out.token) {
      EXPECT_EQ(out.top[i].logprob, out.logprob) << "one token, one value";
    }
  }
  d.sampling.logprobs = 0;
  EXPECT_EQ(d.run().logprob, out.logprob);
  EXPECT_TRUE(d.run().top.empty());
  d.sampling.logprobs = -1;
  EXPECT_EQ(d.run().logprob, 0.0f);
  EXPECT_EQ(d.run().token, out.token) << "asking for logprobs must not change the draw";
  d.sampling.logprobs = 5000;
  EXPECT_EQ(d.run().top.size(), 700u);
}

TEST(Sampler, ScoreIsTheLogprobOfAGivenToken) {
  Sampler sampler(3);
  const std::vector<float> logits = {1.0f, 2.0f, 2.0f};
  TokenOutput out;
  ASSERT_TRUE(sampler.score({.logits = logits}, 0, 2, out).ok());
  EXPECT_EQ(out.token, 0);
  EXPECT_NEAR(out.logprob, 1 - std::log(std::exp(1.0) + 2 * std::exp(2.0)), 1e-6);
  ASSERT_EQ(out.top.size(), 2u);
  EXPECT_EQ(out.top[0].token, 1);  // the lower id of equals
  EXPECT_EQ(out.top[1].token, 2);
}

TEST(Sampler, NotFiniteLogitsAreAnError) {
  for (const float bad : {kInf, -kInf, std::nanf(""), -std::nanf("")}) {
    for (const size_t at : {size_t{0}, size_t{100}, size_t{255}, size_t{256}, size_t{299}}) {
      for (const float temperature : {0.0f, 1.0f}) {
        Draw d;
        d.logits.assign(300, 1.0f);
        d.logits[at] = bad;
        d.sampling.temperature = temperature;
        EXPECT_THAT(d.error(), HasSubstr("logits are not finite"));
        TokenOutput out;
        Sampler sampler(300);
        EXPECT_FALSE(sampler.score({.logits = d.logits}, 0, 0, out).ok());
      }
    }
  }
}

TEST(Sampler, AbsurdParametersDoNotCrash) {
  const std::vector<float> odd = {0.0f, -1.0f, 1e-30f, 1e-6f, 1e30f, kInf, -kInf, std::nanf("")};
  Rng rng(13);
  Sampler sampler(600);
  TokenOutput out;
  for (int round = 0; round < 4000; ++round) {
    Draw d;
    d.logits = random_logits(rng, 600, rng.below(2) != 0 ? 10 : 3e38);
    for (float& x : d.logits) x = std::clamp(x, -3e38f, 3e38f);
    d.output = {1, 2};
    const auto pick = [&] { return odd[rng.below(odd.size())]; };
    d.sampling.temperature = pick();
    d.sampling.top_p = pick();
    d.sampling.min_p = pick();
    d.sampling.repetition_penalty = pick();
    d.sampling.presence_penalty = pick();
    d.sampling.top_k = static_cast<int32_t>(rng.below(3)) * 300 - 300;
    d.sampling.logprobs = static_cast<int32_t>(rng.below(3));
    if (sampler.sample(d.input(), out).ok()) {
      EXPECT_GE(out.token, 0);
      EXPECT_LT(out.token, 600);
    }
  }
}

TEST(Sampler, DoesNotAllocateAfterTheFirstTokens) {
  Rng rng(1);
  Draw d;
  d.logits = random_logits(rng, 49152, 12);
  d.prompt.assign(100, 7);
  const auto input = d.input();
  Sampler sampler(49152);
  TokenOutput out;
  const auto all = [&] {
    for (const float temperature : {0.0f, 1.0f}) {
      for (const int32_t top_k : {0, 40, 30000}) {
        for (const float top_p : {1.0f, 0.9f}) {
          d.sampling.temperature = temperature;
          d.sampling.top_k = top_k;
          d.sampling.top_p = top_p;
          d.sampling.repetition_penalty = 1.1f;
          ASSERT_TRUE(sampler.sample(input, out).ok());
        }
      }
    }
  };
  all();
  const int64_t before = baton::testing::allocation_count();
  all();
  EXPECT_EQ(baton::testing::allocation_count(), before);
}

}  // namespace
}  // namespace baton::worker
