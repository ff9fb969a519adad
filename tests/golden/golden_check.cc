#include "tests/golden/golden_check.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace baton::testing {
namespace {

void compare(std::span<const float> logits, const std::vector<TokenLogit>& top, double logsumexp,
             Deviation& out) {
  for (const auto& [token, logit] : top) out.logit = std::max(out.logit, std::abs(logits[token] - logit));
  out.logsumexp = std::max(out.logsumexp, std::abs(log_sum_exp(logits) - logsumexp));
}

// The rule of shared/models/README.md: within 0.6 of the best; where the emulated engines already differed by
// more, within twice that, at most 1.5.
bool within_near_tie(const GoldenStep& step, TokenId token, double near_tie) {
  const double allowed = std::max(near_tie, std::min(2 * step.int8_gap, 1.5));
  for (const auto* list : {&step.top, &step.near})
    for (const auto& [id, logit] : *list)
      if (id == token) return step.top[0].second - logit <= allowed;
  return false;
}

void compare_step(std::span<const float> logits, const GoldenStep& step, const CheckOptions& options,
                  Deviation& out) {
  ++out.steps;
  compare(logits, step.top, step.logsumexp, out);
  const TokenId token = argmax(logits);
  if (token != step.next) {
    ++out.flips;
    if (step.margin >= options.strict_margin) ++out.wrong_tokens;
    if (!within_near_tie(step, token, options.near_tie)) ++out.outside;
  }
  const double error =
      std::abs((logits[step.next] - log_sum_exp(logits)) - (step.top[0].second - step.logsumexp));
  out.logprob = std::max(out.logprob, error);
  out.logprob_sum += error;
}

}  // namespace

void Deviation::merge(const Deviation& other) {
  logit = std::max(logit, other.logit);
  logsumexp = std::max(logsumexp, other.logsumexp);
  steps += other.steps;
  wrong_tokens += other.wrong_tokens;
  flips += other.flips;
  outside += other.outside;
  logprob = std::max(logprob, other.logprob);
  logprob_sum += other.logprob_sum;
}

Deviation check_case(ModelUnderTest& engine, const GoldenCase& golden, const CheckOptions& options) {
  const int steps = std::min<int>(options.max_steps, static_cast<int>(golden.steps.size()));
  std::vector<TokenId> tokens = golden.prompt;
  tokens.insert(tokens.end(), golden.greedy.begin(), golden.greedy.begin() + (steps - 1));
  const auto last = static_cast<int32_t>(golden.prompt.size()) - 1;
  std::map<int32_t, const GoldenPosition*> mid;
  if (options.mid_positions)
    for (const GoldenPosition& m : golden.mid) mid[m.position] = &m;
  std::vector<int32_t> wanted;
  for (const auto& [position, entry] : mid) wanted.push_back(position);
  for (int i = 0; i < steps; ++i) wanted.push_back(last + i);
  Deviation out;
  engine.forward(tokens, wanted, [&](int32_t position, std::span<const float> logits) {
    if (const auto it = mid.find(position); it != mid.end() && position < last)
      compare(logits, it->second->top, it->second->logsumexp, out);
    if (position >= last) compare_step(logits, golden.steps[position - last], options, out);
  });
  return out;
}

}  // namespace baton::testing
