#include "worker/model/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "kernels/logit_blocks.h"
#include "worker/model/logit_loops.h"
#include "worker/parallel/plan_codec.h"

namespace baton::worker {
namespace {

constexpr size_t kBlock = kernels::kLogitBlock;
constexpr float kGreedyBelow = 1e-5f;
// Without top-k, tokens less likely than e^-40 of the best are never drawn: 53 random bits could not reach
// them.
constexpr double kFarBelow = 40.0;
constexpr size_t kBins = 512;  // 8 per power of two below the weight 1 of the best; the last takes the rest
constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Bins of weights in (0, 1], most likely first: the exponent and three mantissa bits, counted down from 1.
size_t bin_of(double weight) {
  const uint64_t steps = (std::bit_cast<uint64_t>(1.0) >> 49) - (std::bit_cast<uint64_t>(weight) >> 49);
  return std::min<uint64_t>(steps, kBins - 1);
}

// Whether anything is added to the logits or forbidden before the draw.
bool adjusts(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  const auto generated = static_cast<int64_t>(input.tokens.size()) - input.prompt_tokens;
  const bool masks = generated < input.stop->min_tokens &&
                     !(input.stop->end_token_ids.empty() && input.stop->stop_token_ids.empty());
  return masks || s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f ||
         !s.logit_bias.empty();
}

bool is_greedy(const SamplingParams& sampling) { return !(sampling.temperature >= kGreedyBelow); }

}  // namespace

Sampler::Sampler(int64_t vocab_size)
    : vocab_(vocab_size),
      block_max_((vocab_ + kBlock - 1) / kBlock),
      adjusted_(vocab_),
      counts_(vocab_),
      seen_(vocab_),
      values_(vocab_),
      ids_(vocab_),
      bin_mass_(kBins) {
  candidates_.reserve(vocab_);
  weights_.reserve(vocab_);
  crossing_.reserve(vocab_);
}

Sampler::Scan Sampler::scan(std::span<const float> logits, std::span<const float> maxima) {
  Scan result;
  if (maxima.empty()) {
    result.finite = kernels::block_maxima(logits, block_max_.data());
  } else {
    result.finite = logit_loops::all_finite(maxima);
    std::ranges::copy(maxima, block_max_.begin());
  }
  const auto best = std::ranges::max_element(block_max_);  // the first of equals
  result.max = *best;
  size_t i = static_cast<size_t>(best - block_max_.begin()) * kBlock;
  while (i + 1 < vocab_ && logits[i] != result.max) ++i;
  result.argmax = static_cast<TokenId>(i);
  return result;
}

absl::Status Sampler::sample(const SamplerInput& input, TokenOutput& out) {
  BATON_CHECK(input.logits.size() == vocab_);
  const Scan raw = scan(input.logits, input.maxima);
  if (!raw.finite) return absl::InvalidArgumentError("the model's logits are not finite");
  const SamplingParams& sampling = *input.sampling;
  out = TokenOutput{};
  const double logsumexp = sampling.logprobs >= 0 ? report(input.logits, raw, sampling.logprobs, out) : 0;
  ASSIGN_OR_RETURN(const std::span<const float> logits, adjust(input));
  // Masked tokens are -inf now; NaN and +inf can only come from absurd parameters.
  const Scan adjusted = logits.data() == input.logits.data() ? raw : scan(logits);
  if (!std::isfinite(adjusted.max))
    return absl::InvalidArgumentError("mask, bias and penalties leave no finite largest logit");
  out.token = is_greedy(sampling) ? adjusted.argmax : draw(logits, adjusted, input);
  if (sampling.logprobs >= 0) out.logprob = static_cast<float>(input.logits[out.token] - logsumexp);
  return absl::OkStatus();
}

int32_t Sampler::needs(const SamplerInput& input) const {
  const SamplingParams& s = *input.sampling;
  if (s.logprobs >= 0 || adjusts(input)) return 0;
  if (is_greedy(s)) return 1;
  return s.top_k > 0 && s.top_k <= kMaxKeep && static_cast<size_t>(s.top_k) < vocab_ ? s.top_k : 0;
}

absl::Status Sampler::sample_from(std::span<const Candidate> candidates, const SamplerInput& input,
                                  TokenOutput& out) {
  BATON_CHECK(!candidates.empty());
  for (const Candidate& c : candidates)
    if (!std::isfinite(c.logit)) return absl::InvalidArgumentError("the model's logits are not finite");
  out = TokenOutput{};
  const Candidate best = *std::ranges::min_element(candidates, before);
  out.token = best.id;
  if (is_greedy(*input.sampling)) return absl::OkStatus();
  candidates_.assign(candidates.begin(), candidates.end());
  keep_top(static_cast<size_t>(needs(input)));
  out.token = draw_kept(best.logit, input);
  return absl::OkStatus();
}

absl::Status Sampler::score(const SamplerInput& input, TokenId token, int32_t top, TokenOutput& out) {
  const std::span<const float> logits = input.logits;
  BATON_CHECK(logits.size() == vocab_ && token >= 0 && static_cast<size_t>(token) < vocab_);
  const Scan raw = scan(logits, input.maxima);
  if (!raw.finite) return absl::InvalidArgumentError("the model's logits are not finite");
  out = TokenOutput{};
  const double logsumexp = report(logits, raw, top, out);
  out.token = token;
  out.logprob = static_cast<float>(logits[token] - logsumexp);
  return absl::OkStatus();
}

// The logsumexp; the alternatives go into out.top.
double Sampler::report(std::span<const float> logits, const Scan& scan, int32_t top, TokenOutput& out) {
  double sums[4];
  logit_loops::exp_sums(logits, scan.max, sums);
  const double logsumexp = double{scan.max} + std::log((sums[0] + sums[1]) + (sums[2] + sums[3]));
  const size_t count = std::min<size_t>(std::max(top, 0), vocab_);
  if (count == 0) return logsumexp;
  select_top(logits, count);
  std::ranges::sort(candidates_, before);
  out.top.resize(count);
  for (size_t i = 0; i < count; ++i)
    out.top[i] = {candidates_[i].id, static_cast<float>(candidates_[i].logit - logsumexp),
                  static_cast<int32_t>(i)};
  return logsumexp;
}

absl::StatusOr<std::span<const float>> Sampler::adjust(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  if (!adjusts(input)) return input.logits;
  std::copy(input.logits.begin(), input.logits.end(), adjusted_.begin());
  RETURN_IF_ERROR(mask_and_bias(input));
  if (s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f)
    penalise(input);
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
  kept_ = logit_loops::gather_above(logits, block_max_.data(), floor, values_.data(), ids_.data());
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
  candidates_.clear();
  for (size_t i = 0; i < kept_; ++i) candidates_.push_back({values_[i], ids_[i]});
  if (kept_ > k) keep_top(k);
}

void Sampler::keep_top(size_t k) {
  k = std::min(k, candidates_.size());
  std::ranges::nth_element(candidates_, candidates_.begin() + static_cast<ptrdiff_t>(k - 1), before);
  candidates_.resize(k);
  std::ranges::sort(candidates_, {}, &Candidate::id);
  kept_ = k;
  for (size_t i = 0; i < k; ++i) values_[i] = candidates_[i].logit, ids_[i] = candidates_[i].id;
}

TokenId Sampler::draw(std::span<const float> logits, const Scan& scan, const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < vocab_) {
    select_top(logits, s.top_k);
  } else {
    select_above(logits, static_cast<float>(scan.max - kFarBelow * s.temperature));
  }
  return draw_kept(scan.max, input);
}

TokenId Sampler::draw_kept(float max, const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  weights_.resize(kept_);
  logit_loops::exp_weights({values_.data(), kept_}, max, s.temperature, weights_.data());
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
  return ids_[last];
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
    const bool keep = weights_[i] > cut.weight || (weights_[i] == cut.weight && ids_[i] <= cut.id);
    if (!keep) weights_[i] = 0;
  }
}

// The least likely candidate of the bin that is still needed to reach `target`.
Sampler::Cut Sampler::cut_in_bin(size_t bin, double target) {
  crossing_.clear();
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0 && bin_of(weights_[i]) == bin) crossing_.push_back(static_cast<uint32_t>(i));
  std::sort(crossing_.begin(), crossing_.end(), [this](uint32_t a, uint32_t b) {
    return weights_[a] != weights_[b] ? weights_[a] > weights_[b] : ids_[a] < ids_[b];
  });
  Cut cut{0, std::numeric_limits<TokenId>::max()};  // everything stays, when rounding left the bin empty
  double mass = 0;
  for (const uint32_t i : crossing_) {
    cut = {weights_[i], ids_[i]};
    mass += weights_[i];
    if (mass >= target) break;
  }
  return cut;
}

}  // namespace baton::worker
