#include "worker/model/device_draw.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/rng.h"
#include "worker/model/candidates.h"

namespace baton::worker {

using kernels::DrawReport;
using kernels::DrawRow;
using kernels::LogitChange;

namespace {

constexpr float kGreedyBelow = 1e-5f;  // as the sampler

bool penalises(const SamplingParams& s) {
  return s.repetition_penalty != 1.0f || s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f;
}

}  // namespace

bool DeviceDraw::draws(const GenerateRequest& request, int64_t vocab_size) {
  if (request.sampling.logprobs > DrawReport::kMostTop || !request.grammar.empty()) return false;
  std::vector<TokenId> ids;
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    if (id < 0 || id >= vocab_size || std::isnan(bias)) return false;
    ids.push_back(id);
  }
  std::ranges::sort(ids);
  return std::ranges::adjacent_find(ids) == ids.end();
}

DrawRow DeviceDraw::describe(const SamplerInput& input, int unknown, std::vector<LogitChange>& changes) {
  const SamplingParams& s = *input.sampling;
  const size_t before = changes.size();
  DrawRow row;
  if (s.logprobs > DrawReport::kMostTop) return row;
  const bool described = add_changes(input, unknown, changes);
  for (size_t i = before; i < changes.size(); ++i) places_[changes[i].id] = -1;
  if (unknown > 0 && penalises(s)) changes.push_back({.id = -1, .count = 1, .flags = LogitChange::kSeen});
  if (!described) {
    changes.resize(before);
    return row;
  }
  row.temperature = s.temperature >= kGreedyBelow ? s.temperature : 0.0f;
  row.uniform = row.temperature > 0 ? uniform(s.seed, input.tokens.size() + unknown) : 0.0;
  row.top_p = s.top_p;
  row.min_p = s.min_p;
  row.top_k = s.top_k > 0 && s.top_k < vocab_ ? s.top_k : 0;
  row.repetition = s.repetition_penalty;
  row.frequency = s.frequency_penalty;
  row.presence = s.presence_penalty;
  row.first_change = static_cast<int32_t>(before);
  row.changes = static_cast<int32_t>(changes.size() - before);
  row.wanted = 1;
  row.report = s.logprobs < 0 ? -1 : static_cast<int32_t>(std::min<int64_t>(s.logprobs, vocab_));
  return row;
}

void DeviceDraw::report(const DrawReport& report, int32_t top, TokenOutput& out) {
  const double logsumexp =
      double{report.largest} + std::log(static_cast<double>(report.mass) * DrawReport::kUnit);
  out.logprob = static_cast<float>(report.logit - logsumexp);
  std::array<Candidate, DrawReport::kMostTop> likeliest;
  for (int32_t i = 0; i < top; ++i) likeliest[i] = {report.top[i].logit, report.top[i].id};
  std::sort(likeliest.begin(), likeliest.begin() + top, before);
  out.top.resize(top);
  for (int32_t i = 0; i < top; ++i)
    out.top[i] = {likeliest[i].id, static_cast<float>(likeliest[i].logit - logsumexp), i};
}

LogitChange& DeviceDraw::change_of(TokenId id, std::vector<LogitChange>& changes) {
  if (places_[id] < 0) {
    places_[id] = static_cast<int32_t>(changes.size());
    changes.push_back({.id = id});
  }
  return changes[places_[id]];
}

// False when the sampler would refuse the biases, or when a token has several: they are added one by one
// there.
bool DeviceDraw::add_changes(const SamplerInput& input, int unknown, std::vector<LogitChange>& changes) {
  for (const auto& [id, bias] : input.sampling->logit_bias) {
    if (id < 0 || id >= vocab_ || std::isnan(bias) || places_[id] >= 0) return false;
    LogitChange& change = change_of(id, changes);
    change.bias = bias;
    change.flags |= LogitChange::kBiased;
  }
  const auto generated = static_cast<int64_t>(input.tokens.size()) + unknown - input.prompt_tokens;
  if (generated < input.stop->min_tokens)
    for (const auto* ids : {&input.stop->end_token_ids, &input.stop->stop_token_ids})
      for (const TokenId id : *ids)
        if (id >= 0 && id < vocab_) change_of(id, changes).flags |= LogitChange::kMasked;
  if (penalises(*input.sampling)) add_penalties(input, changes);
  return true;
}

void DeviceDraw::add_penalties(const SamplerInput& input, std::vector<LogitChange>& changes) {
  for (size_t i = 0; i < input.tokens.size(); ++i) {
    LogitChange& change = change_of(input.tokens[i], changes);
    change.flags |= LogitChange::kSeen;
    if (i >= static_cast<size_t>(input.prompt_tokens)) ++change.count;
  }
}

}  // namespace baton::worker
