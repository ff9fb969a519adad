#include "worker/model/candidates.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"
#include "kernels/logit_blocks.h"
#include "worker/model/sampler.h"

namespace baton::worker {
namespace {

std::vector<float> maxima_of(std::span<const float> logits) {
  const auto count = static_cast<int64_t>(logits.size());
  std::vector<float> maxima(kernels::logit_blocks(count)), values(logits.begin(), logits.end());
  kernels::LogitRows{values.data(), maxima.data()}.look_over(1, count);
  return maxima;
}

// Values with many ties.
std::vector<float> random_logits(size_t count, Rng& rng) {
  std::vector<float> out(count);
  for (float& v : out) v = static_cast<float>(rng.below(200)) / 8 - 12;
  return out;
}

TEST(CandidateSelector, FindsTheFirstOfAShare) {
  const uint64_t seed = 11;
  SCOPED_TRACE(seed);
  Rng rng(seed);
  CandidateSelector selector;
  for (const size_t count : {1u, 2u, 255u, 256u, 257u, 1000u, 5000u})
    for (const size_t keep : {1u, 2u, 20u, 256u}) {
      if (keep > count) continue;
      const std::vector<float> logits = random_logits(count, rng);
      std::vector<Candidate> want, got(keep);
      for (size_t i = 0; i < count; ++i) want.push_back({logits[i], static_cast<TokenId>(700 + i)});
      std::ranges::sort(want, before);
      selector.select(logits, maxima_of(logits), 700, got);
      std::ranges::sort(got, before);
      for (size_t i = 0; i < keep; ++i) EXPECT_EQ(got[i].id, want[i].id) << count << " " << keep << " " << i;
    }
}

TEST(CandidateSelector, AFaultShows) {
  CandidateSelector selector;
  std::vector<float> logits(1000, 1.0f);
  std::vector<Candidate> out(3);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    logits[777] = bad;
    selector.select(logits, maxima_of(logits), 0, out);
    EXPECT_TRUE(std::isnan(out[0].logit));
  }
}

// Rank 0 draws from the best of every share what it would draw from all logits.
TEST(SampleFrom, IsSample) {
  const uint64_t seed = 12;
  SCOPED_TRACE(seed);
  Rng rng(seed);
  constexpr size_t kVocab = 3000;
  Sampler sampler(kVocab);
  CandidateSelector selector;
  const std::vector<TokenId> tokens = {1, 2, 3};
  for (int turn = 0; turn < 500; ++turn) {
    const std::vector<float> logits = random_logits(kVocab, rng);
    SamplingParams sampling;
    StopParams stop;
    sampling.temperature = turn % 3 == 0 ? 0.0f : 0.7f;
    sampling.top_k = static_cast<int32_t>(1 + rng.below(256));
    sampling.top_p = turn % 2 == 0 ? 1.0f : 0.9f;
    sampling.min_p = turn % 5 == 0 ? 0.05f : 0.0f;
    sampling.seed = rng.next();
    const SamplerInput input{logits, tokens, 2, &sampling, &stop};
    const int32_t needs = sampler.needs(input);
    ASSERT_EQ(needs, turn % 3 == 0 ? 1 : sampling.top_k);
    std::vector<Candidate> candidates;
    for (const auto& [first, end] : {std::pair<size_t, size_t>{0, 1008}, {1008, 1100}, {1100, kVocab}}) {
      std::vector<Candidate> own(std::min<size_t>(needs, end - first));
      const std::span share = std::span(logits).subspan(first, end - first);
      selector.select(share, maxima_of(share), static_cast<TokenId>(first), own);
      candidates.insert(candidates.end(), own.begin(), own.end());
    }
    TokenOutput want, got;
    ASSERT_TRUE(sampler.sample(input, want).ok());
    ASSERT_TRUE(sampler.sample_from(candidates, input, got).ok());
    EXPECT_EQ(got.token, want.token);
  }
}

TEST(SampleFrom, WantsAllLogitsForWhatNeedsThem) {
  Sampler sampler(1000);
  const std::vector<TokenId> tokens = {1, 2, 3};
  StopParams stop;
  const auto needs = [&](const SamplingParams& sampling) {
    return sampler.needs({{}, tokens, 2, &sampling, &stop});
  };
  EXPECT_EQ(needs({.temperature = 0}), 1);
  EXPECT_EQ(needs({.temperature = 1, .top_k = 40}), 40);
  EXPECT_EQ(needs({.temperature = 1}), 0);
  EXPECT_EQ(needs({.temperature = 1, .top_k = 257}), 0);
  SamplingParams s{.temperature = 1, .top_k = 40};
  EXPECT_EQ(Sampler(30).needs({{}, tokens, 2, &s, &stop}), 0);
  s = {.temperature = 0};
  s.logprobs = 0;
  EXPECT_EQ(needs(s), 0);
  // Of changed logits; rows without top-k are drawn from all.
  s = {.temperature = 0};
  s.presence_penalty = 0.5f;
  s.logit_bias = {{5, 1.0f}};
  EXPECT_EQ(needs(s), 1);
  stop.min_tokens = 5;
  stop.end_token_ids = {2};
  EXPECT_EQ(needs({.temperature = 0}), 1);
  const auto from_all = [&](const SamplingParams& sampling) {
    return sampler.draws_from_all({{}, tokens, 2, &sampling, &stop});
  };
  EXPECT_TRUE(from_all({.temperature = 1}));
  EXPECT_TRUE(from_all({.temperature = 1, .top_k = 1000}));
  EXPECT_FALSE(from_all({.temperature = 1, .top_k = 257}));
  EXPECT_FALSE(from_all({.temperature = 0}));
  EXPECT_FALSE(from_all({.temperature = 1, .logprobs = 0}));
}

TEST(SampleFrom, RefusesAFault) {
  Sampler sampler(1000);
  const std::vector<TokenId> tokens = {1};
  const SamplingParams sampling{.temperature = 0};
  const StopParams stop;
  TokenOutput out;
  const std::vector<Candidate> candidates = {{1.0f, 3}, {std::numeric_limits<float>::quiet_NaN(), 500}};
  const SamplerInput input{{}, tokens, 1, &sampling, &stop};
  EXPECT_EQ(sampler.sample_from(candidates, input, out).message(), "the model's logits are not finite");
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float best : {-kInf, kInf})
    EXPECT_EQ(sampler.sample_from(std::vector<Candidate>{{best, 3}, {-kInf, 4}}, input, out).message(),
              "mask, bias and penalties leave no finite largest logit");
  EXPECT_TRUE(sampler.sample_from(std::vector<Candidate>{{1.0f, 3}, {-kInf, 4}}, input, out).ok());
  EXPECT_EQ(out.token, 3);
}

}  // namespace
}  // namespace baton::worker
