#include "cli/bench/load/samples.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace baton::load {
namespace {

double ms_between(Instant from, Instant to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

double nearest_rank(const std::vector<double>& sorted, double p) {
  const double rank = std::ceil(p * static_cast<double>(sorted.size()));
  return sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

}  // namespace

Spread spread(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  return {.n = values.size(),
          .mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          .p50 = nearest_rank(values, 0.5),
          .p95 = nearest_rank(values, 0.95),
          .p99 = nearest_rank(values, 0.99),
          .max = values.back()};
}

double median(std::vector<double> values) { return spread(std::move(values)).p50; }

void Samples::add(const StreamRecord& stream) {
  ++requests;
  if (!stream.error.empty()) {
    ++failed;
    if (first_error.empty()) first_error = stream.error;
    return;
  }
  dropped += stream.dropped;
  output_tokens += stream.dropped ? stream.tokens_seen() : stream.output_tokens;
  if (!stream.verdict.empty()) ++paths[stream.verdict];
  for (const auto& [stage, ms] : stream.stage_ms) stage_ms[stage].push_back(ms);
  if (stream.texts.empty()) return;
  ttft_ms.push_back(ms_between(stream.sent, stream.texts.front()));
  for (size_t i = 1; i < stream.texts.size(); ++i)
    itl_ms.push_back(ms_between(stream.texts[i - 1], stream.texts[i]));
  if (stream.texts.size() > 1) second_ms.push_back(ms_between(stream.texts[0], stream.texts[1]));
}

size_t Samples::gaps_over(double ms) const {
  return static_cast<size_t>(std::ranges::count_if(itl_ms, [ms](double gap) { return gap > ms; }));
}

}  // namespace baton::load
