#include "worker/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "kernels/logit_blocks.h"
#include "worker/model/logit_changes.h"
#include "worker/model/logit_loops.h"
#include "worker/parallel/batch_rows.h"

namespace baton::worker {
namespace {

constexpr size_t kBlock = kernels::kLogitBlock;
constexpr float kGreedyBelow = 1e-5f;
constexpr const char* kNotFinite = "the model's logits are not finite";
constexpr const char* kNothingLeft = "mask, bias and penalties leave no finite largest logit";
constexpr float kMasked = -std::numeric_limits<float>::infinity();

// Whether anything is added to the logits or forbidden before the draw.
bool adjusts(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  const auto generated = static_cast<int64_t>(input.tokens.size()) - input.prompt_tokens;
  const bool masks = generated < input.stop->min_tokens &&
                     !(input.stop->end_token_ids.empty() && input.stop->stop_token_ids.empty());
  return masks || !input.allowed.words.empty() || s.repetition_penalty != 1.0f ||
         s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f || !s.logit_bias.empty();
}

bool is_greedy(const SamplingParams& sampling) { return !(sampling.temperature >= kGreedyBelow); }

bool has_top_k(const SamplingParams& s, size_t vocab) {
  return s.top_k > 0 && static_cast<size_t>(s.top_k) < vocab;
}

}  // namespace

Sampler::Sampler(int64_t vocab_size)
    : vocab_(vocab_size),
      block_max_((vocab_ + kBlock - 1) / kBlock),
      adjusted_(vocab_),
      counts_(vocab_),
      seen_(vocab_),
      values_(vocab_),
      ids_(vocab_),
      weights_(vocab_) {
  ranked_.reserve(block_max_.size());
  candidates_.reserve(vocab_);
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
  if (!raw.finite) return absl::InvalidArgumentError(kNotFinite);
  const SamplingParams& sampling = *input.sampling;
  out = TokenOutput{};
  const double logsumexp = sampling.logprobs >= 0 ? report(input.logits, raw, sampling.logprobs, out) : 0;
  ASSIGN_OR_RETURN(const std::span<const float> logits, adjust(input));
  // Masked tokens are -inf now; NaN and +inf can only come from absurd parameters.
  const Scan adjusted = logits.data() == input.logits.data() ? raw : scan(logits);
  if (!std::isfinite(adjusted.max)) return absl::InvalidArgumentError(kNothingLeft);
  out.token = is_greedy(sampling) ? adjusted.argmax : draw(logits, adjusted, input);
  if (sampling.logprobs >= 0) out.logprob = static_cast<float>(input.logits[out.token] - logsumexp);
  return absl::OkStatus();
}

int32_t Sampler::needs(const SamplerInput& input) const {
  const SamplingParams& s = *input.sampling;
  if (s.logprobs >= 0) return 0;
  if (is_greedy(s)) return 1;
  return has_top_k(s, vocab_) && s.top_k <= most_candidates(static_cast<int64_t>(vocab_)) ? s.top_k : 0;
}

bool Sampler::draws_from_all(const SamplerInput& input) const {
  const SamplingParams& s = *input.sampling;
  return s.logprobs < 0 && !is_greedy(s) && !has_top_k(s, vocab_);
}

absl::Status Sampler::sample_from(std::span<const Candidate> candidates, const SamplerInput& input,
                                  TokenOutput& out) {
  BATON_CHECK(!candidates.empty());
  for (const Candidate& c : candidates)
    if (std::isnan(c.logit)) return absl::InvalidArgumentError(kNotFinite);
  out = TokenOutput{};
  const Candidate best = *std::ranges::min_element(candidates, before);
  if (!std::isfinite(best.logit)) return absl::InvalidArgumentError(kNothingLeft);
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
  if (!raw.finite) return absl::InvalidArgumentError(kNotFinite);
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
  if (input.allowed.words.empty()) {
    std::copy(input.logits.begin(), input.logits.end(), adjusted_.begin());
  } else {
    logit_loops::copy_allowed(input.logits, input.allowed.words, adjusted_.data());
  }
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
  if (generated >= input.stop->min_tokens || input.allowed.only_ends) return absl::OkStatus();
  for (const auto* ids : {&input.stop->end_token_ids, &input.stop->stop_token_ids})
    for (const TokenId id : *ids)
      if (id >= 0 && static_cast<size_t>(id) < vocab_) adjusted_[id] = kMasked;
  return absl::OkStatus();
}

void Sampler::penalise(const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  const Penalties penalties = {s.repetition_penalty, s.frequency_penalty, s.presence_penalty};
  const auto output = input.tokens.subspan(input.prompt_tokens);
  for (const TokenId id : output) ++counts_[id];
  for (const TokenId id : input.tokens) {
    if (seen_[id] != 0) continue;
    seen_[id] = 1;
    adjusted_[id] = penalised(adjusted_[id], counts_[id], penalties);
  }
  for (const TokenId id : input.tokens) seen_[id] = 0, counts_[id] = 0;
}

void Sampler::select_above(std::span<const float> logits, float floor) {
  kept_ = logit_loops::gather_above(logits, block_max_.data(), floor, values_.data(), ids_.data());
}

void Sampler::select_top(std::span<const float> logits, size_t k) {
  // The k-th largest block maximum cannot be above the k-th largest logit.
  float floor = std::numeric_limits<float>::lowest();  // not what is masked
  if (k <= block_max_.size()) {
    ranked_.assign(block_max_.begin(), block_max_.end());
    std::nth_element(ranked_.begin(), ranked_.begin() + (k - 1), ranked_.end(), std::greater<>());
    floor = std::max(floor, ranked_[k - 1]);
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
  if (has_top_k(s, vocab_)) {
    select_top(logits, s.top_k);
  } else {
    select_above(logits, TokenWeights::floor(scan.max, s.temperature));
  }
  return draw_kept(scan.max, input);
}

TokenId Sampler::draw_kept(float max, const SamplerInput& input) {
  const SamplingParams& s = *input.sampling;
  weights_.weigh({ids_.data(), kept_}, {values_.data(), kept_}, max, s.temperature);
  if (s.min_p > 0) weights_.drop_below(s.min_p);
  if (s.top_p < 1) apply_top_p(s.top_p);
  double total = 0;
  weights_.add_to(total);
  return weights_.walk(0, uniform(s.seed, input.tokens.size()) * total);
}

// Keeps the smallest set of the most likely candidates whose mass reaches top_p of the whole. Mass is counted
// into bins by likelihood; only the bin in which the target is reached is sorted.
void Sampler::apply_top_p(float top_p) {
  masses_ = {};
  weights_.add_to(masses_);
  const TokenWeights::Crossing crossing = TokenWeights::crossing(masses_, top_p);
  crossing_.clear();
  weights_.members(crossing.bin, crossing_);
  weights_.keep(TokenWeights::cut(crossing_, crossing.wanted));
}

}  // namespace baton::worker
