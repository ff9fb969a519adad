#include "worker/model/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"

namespace baton::worker {
namespace {

constexpr size_t kBlock = 256;
constexpr float kGreedyBelow = 1e-5f;
// Without top-k, tokens less likely than e^-40 of the best are never drawn: 53 random bits could not reach
// them.
constexpr double kFarBelow = 40.0;
constexpr size_t kBins = 512;  // 8 per power of two below the weight 1 of the best; the last takes the rest
constexpr float kMasked = -std::numeric_limits<float>::infinity();

using Lanes = float __attribute__((vector_size(16)));
using Bits = int32_t __attribute__((vector_size(16)));

Lanes load(const float* p) {
  Lanes v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

// Largest of kBlock floats; `bad` collects lanes whose exponent is all ones (infinite or not a number).
float max_of_block(const float* x, Bits& bad) {
  const Bits exponent = {0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000};
  Lanes best[2] = {load(x), load(x + 4)};
  for (size_t i = 0; i < kBlock; i += 8) {
    for (int h = 0; h < 2; ++h) {
      const Lanes v = load(x + i + 4 * h);
      best[h] = v > best[h] ? v : best[h];
      bad |= (std::bit_cast<Bits>(v) & exponent) == exponent;
    }
  }
  float max = best[0][0];
  for (int h = 0; h < 2; ++h)
    for (int i = 0; i < 4; ++i) max = best[h][i] > max ? best[h][i] : max;
  return max;
}

float max_of_tail(std::span<const float> x, Bits& bad) {
  float max = x[0];
  for (const float v : x) {
    max = v > max ? v : max;
    if (!std::isfinite(v)) bad[0] = -1;
  }
  return max;
}

// Bins of weights in (0, 1], most likely first: the exponent and three mantissa bits, counted down from 1.
size_t bin_of(double weight) {
  const uint64_t steps = (std::bit_cast<uint64_t>(1.0) >> 49) - (std::bit_cast<uint64_t>(weight) >> 49);
  return std::min<uint64_t>(steps, kBins - 1);
}

bool before(float logit_a, TokenId a, float logit_b, TokenId b) {
  return logit_a != logit_b ? logit_a > logit_b : a < b;
}

}  // namespace

double fixed_exp(double x) {
  if (!(x > -700.0)) return 0.0;
  constexpr double kInvLn2 = 1.4426950408889634074;
  constexpr double kLn2High = 6.93147180369123816490e-01;  // fdlibm's split of ln 2
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, held in the low mantissa bits
  const double shifted = x * kInvLn2 + kRound;
  const double n = shifted - kRound;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2)/2
  double p = 1.0 / 6227020800.0;                      // Taylor, degree 13
  constexpr double kFactors[] = {1.0 / 479001600.0,
                                 1.0 / 39916800.0,
                                 1.0 / 3628800.0,
                                 1.0 / 362880.0,
                                 1.0 / 40320.0,
                                 1.0 / 5040.0,
                                 1.0 / 720.0,
                                 1.0 / 120.0,
                                 1.0 / 24.0,
                                 1.0 / 6.0,
                                 0.5,
                                 1.0,
                                 1.0};
  for (const double factor : kFactors) p = p * r + factor;
  const auto exponent = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  return p * std::bit_cast<double>(exponent);
}

Sampler::Sampler(int64_t vocab_size)
    : vocab_(vocab_size),
      block_max_((vocab_ + kBlock - 1) / kBlock),
      adjusted_(vocab_),
      counts_(vocab_),
      seen_(vocab_),
      bin_mass_(kBins) {
  candidates_.reserve(vocab_);
  weights_.reserve(vocab_);
  crossing_.reserve(vocab_);
}

Sampler::Scan Sampler::scan(std::span<const float> logits) {
  Bits bad = {0, 0, 0, 0};
  size_t best = 0;
  for (size_t b = 0; b < block_max_.size(); ++b) {
    const auto block = logits.subspan(b * kBlock, std::min(kBlock, vocab_ - b * kBlock));
    block_max_[b] = block.size() == kBlock ? max_of_block(block.data(), bad) : max_of_tail(block, bad);
    if (block_max_[b] > block_max_[best]) best = b;
  }
  Scan result;
  result.max = block_max_[best];
  result.finite = (bad[0] | bad[1] | bad[2] | bad[3]) == 0;
  size_t i = best * kBlock;
  while (i + 1 < vocab_ && logits[i] != result.max) ++i;
  result.argmax = static_cast<TokenId>(i);
  return result;
}

absl::Status Sampler::sample(const SamplerInput& input, TokenOutput& out) {
  BATON_CHECK(input.logits.size() == vocab_);
  const Scan raw = scan(input.logits);
  if (!raw.finite) return absl::InvalidArgumentError("the model's logits are not finite");
  const SamplingParams& sampling = *input.sampling;
  out = TokenOutput{};
  const double logsumexp = sampling.logprobs >= 0 ? report(input.logits, raw, sampling.logprobs, out) : 0;
  ASSIGN_OR_RETURN(const std::span<const float> logits, adjust(input));
  // Masked tokens are -inf now; NaN and +inf can only come from absurd parameters.
  const Scan adjusted = logits.data() == input.logits.data() ? raw : scan(logits);
  if (!std::isfinite(adjusted.max))
    return absl::InvalidArgumentError("mask, bias and penalties leave no finite largest logit");
  const bool greedy = !(sampling.temperature >= kGreedyBelow);
  out.token = greedy ? adjusted.argmax : draw(logits, adjusted, input);
  if (sampling.logprobs >= 0) out.logprob = static_cast<float>(input.logits[out.token] - logsumexp);
  return absl::OkStatus();
}

absl::Status Sampler::score(std::span<const float> logits, TokenId token, int32_t top, TokenOutput& out) {
  BATON_CHECK(logits.size() == vocab_ && token >= 0 && static_cast<size_t>(token) < vocab_);
  const Scan raw = scan(logits);
  if (!raw.finite) return absl::InvalidArgumentError("the model's logits are not finite");
  out = TokenOutput{};
  const double logsumexp = report(logits, raw, top, out);
  out.token = token;
  out.logprob = static_cast<float>(logits[token] - logsumexp);
  return absl::OkStatus();
}

// The logsumexp; the alternatives go into out.top.
double Sampler::report(std::span<const float> logits, const Scan& scan, int32_t top, TokenOutput& out) {
  double sums[4] = {0, 0, 0, 0};
  for (size_t i = 0; i < vocab_; ++i) sums[i % 4] += fixed_exp(double{logits[i]} - scan.max);
  const double logsumexp = double{scan.max} + std::log((sums[0] + sums[1]) + (sums[2] + sums[3]));
  const size_t count = std::min<size_t>(std::max(top, 0), vocab_);
  if (count == 0) return logsumexp;
  select_top(logits, count);
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return before(a.logit, a.id, b.logit, b.id); });
  out.top.resize(count);
  for (size_t i = 0; i < count; ++i)
    out.top[i] = {candidates_[i].id, static_cast<float>(candidates_[i].logit - logsumexp),
                  static_cast<int32_t>(i)};
  return logsumexp;
}

absl::StatusOr<std::span<const float>> Sampler::adjust(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  const auto generated = static_cast<int64_t>(input.tokens.size()) - input.prompt_tokens;
  const bool masks = generated < input.stop->min_tokens &&
                     !(input.stop->end_token_ids.empty() && input.stop->stop_token_ids.empty());
  const bool penalties =
      s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f;
  if (!masks && !penalties && s.logit_bias.empty()) return input.logits;
  std::copy(input.logits.begin(), input.logits.end(), adjusted_.begin());
  RETURN_IF_ERROR(mask_and_bias(input));
  if (penalties) penalise(input);
  return std::span<const float>(adjusted_);
}

absl::Status Sampler::mask_and_bias(const SamplerInput& input) {
  for (const auto& [id, bias] : input.sampling->logit_bias) {
    if (id < 0 || static_cast<size_t>(id) >= vocab_)
      return absl::InvalidArgumentError(
          cat("logit_bias: token ", id, " is not in the vocabulary of ", vocab_));
    if (std::isnan(bias)) return absl::InvalidArgumentError(cat("logit_bias: token ", id, ": not a number"));
    adjusted_[id] += bias;
  }
  const auto generated = static_cast<int64_t>(input.tokens.size()) - input.prompt_tokens;
  if (generated >= input.stop->min_tokens) return absl::OkStatus();
  for (const auto* ids : {&input.stop->end_token_ids, &input.stop->stop_token_ids})
    for (const TokenId id : *ids)
      if (id >= 0 && static_cast<size_t>(id) < vocab_) adjusted_[id] = kMasked;
  return absl::OkStatus();
}

void Sampler::penalise(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  const auto output = input.tokens.subspan(input.prompt_tokens);
  for (const TokenId id : output) ++counts_[id];
  for (const TokenId id : input.tokens) {
    if (seen_[id] != 0) continue;
    seen_[id] = 1;
    float& logit = adjusted_[id];
    logit = logit > 0 ? logit / s.repetition_penalty : logit * s.repetition_penalty;
    if (counts_[id] == 0) continue;
    logit -= s.frequency_penalty * static_cast<float>(counts_[id]);
    logit -= s.presence_penalty;
  }
  for (const TokenId id : input.tokens) seen_[id] = 0, counts_[id] = 0;
}

void Sampler::select_above(std::span<const float> logits, float floor) {
  candidates_.clear();
  for (size_t b = 0; b < block_max_.size(); ++b) {
    if (!(block_max_[b] >= floor)) continue;
    const size_t end = std::min(vocab_, (b + 1) * kBlock);
    for (size_t i = b * kBlock; i < end; ++i)
      if (logits[i] >= floor) candidates_.push_back({logits[i], static_cast<TokenId>(i)});
  }
}

void Sampler::select_top(std::span<const float> logits, size_t k) {
  // The k-th largest block maximum cannot be above the k-th largest logit.
  float floor = kMasked;
  if (k <= block_max_.size()) {
    weights_.assign(block_max_.begin(), block_max_.end());
    std::nth_element(weights_.begin(), weights_.begin() + (k - 1), weights_.end(), std::greater<>());
    floor = static_cast<float>(weights_[k - 1]);
  }
  select_above(logits, floor);
  if (candidates_.size() > k) {
    std::nth_element(
        candidates_.begin(), candidates_.begin() + (k - 1), candidates_.end(),
        [](const Candidate& a, const Candidate& b) { return before(a.logit, a.id, b.logit, b.id); });
    candidates_.resize(k);
  }
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

TokenId Sampler::draw(std::span<const float> logits, const Scan& scan, const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < vocab_) {
    select_top(logits, s.top_k);
  } else {
    select_above(logits, static_cast<float>(scan.max - kFarBelow * s.temperature));
  }
  weights_.resize(candidates_.size());
  const double max = scan.max;
  const double temperature = s.temperature;
  for (size_t i = 0; i < candidates_.size(); ++i)
    weights_[i] = fixed_exp((candidates_[i].logit - max) / temperature);
  if (s.min_p > 0) apply_min_p(s.min_p);
  if (s.top_p < 1) apply_top_p(s.top_p);
  double total = 0;
  for (const double w : weights_) total += w;
  const double target = uniform(s.seed, input.tokens.size()) * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    last = i;
    sum += weights_[i];
    if (sum > target) break;
  }
  return candidates_[last].id;
}

void Sampler::apply_min_p(float min_p) {
  // The best token's weight is 1, so the threshold is min_p itself; it always stays.
  const double threshold = std::min(double{min_p}, 1.0);
  for (double& w : weights_)
    if (w < threshold) w = 0;
}

// Keeps the smallest set of the most likely candidates whose mass reaches top_p of the whole. Mass is counted
// into bins by likelihood; only the bin in which the target is reached is sorted.
void Sampler::apply_top_p(float top_p) {
  std::fill(bin_mass_.begin(), bin_mass_.end(), 0.0);
  double total = 0;
  for (const double w : weights_) {
    if (w == 0) continue;
    bin_mass_[bin_of(w)] += w;
    total += w;
  }
  const double target = std::max(double{top_p}, 0.0) * total;
  size_t bin = 0;
  double above = 0;
  while (bin + 1 < kBins && above + bin_mass_[bin] < target) above += bin_mass_[bin++];
  const Cut cut = cut_in_bin(bin, target - above);
  for (size_t i = 0; i < weights_.size(); ++i) {
    const bool keep = weights_[i] > cut.weight || (weights_[i] == cut.weight && candidates_[i].id <= cut.id);
    if (!keep) weights_[i] = 0;
  }
}

// The least likely candidate of the bin that is still needed to reach `target`.
Sampler::Cut Sampler::cut_in_bin(size_t bin, double target) {
  crossing_.clear();
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0 && bin_of(weights_[i]) == bin) crossing_.push_back(static_cast<uint32_t>(i));
  std::sort(crossing_.begin(), crossing_.end(), [this](uint32_t a, uint32_t b) {
    return weights_[a] != weights_[b] ? weights_[a] > weights_[b] : candidates_[a].id < candidates_[b].id;
  });
  Cut cut{0, std::numeric_limits<TokenId>::max()};  // everything stays, when rounding left the bin empty
  double mass = 0;
  for (const uint32_t i : crossing_) {
    cut = {weights_[i], candidates_[i].id};
    mass += weights_[i];
    if (mass >= target) break;
  }
  return cut;
}

}  // namespace baton::worker
