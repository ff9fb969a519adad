#include "worker/schedule/step_time.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace baton::worker {
namespace {

// How strongly a coefficient clings to its last value, in measured steps that consist of nothing else.
constexpr double kInertia = 0.02;
constexpr double kMeanContextDecay = 0.98;

using Terms = StepTime::Coefficients;

Terms terms_of(const StepLoad& load) { return {1.0, load.prefill_tokens, load.attended, load.decode_rows}; }

// Solves the active rows of m u = v by elimination; inactive entries are 0. m is symmetric positive definite.
Terms solve_active(std::array<Terms, StepTime::kTerms> m, Terms v,
                   const std::array<bool, StepTime::kTerms>& active) {
  constexpr int n = StepTime::kTerms;
  for (int i = 0; i < n; ++i) {
    if (!active[i]) continue;
    for (int r = i + 1; r < n; ++r) {
      if (!active[r]) continue;
      const double factor = m[r][i] / m[i][i];
      for (int c = i; c < n; ++c) m[r][c] -= factor * m[i][c];
      v[r] -= factor * v[i];
    }
  }
  Terms u{};
  for (int i = n - 1; i >= 0; --i) {
    if (!active[i]) continue;
    double rest = v[i];
    for (int c = i + 1; c < n; ++c) rest -= active[c] ? m[i][c] * u[c] : 0.0;
    u[i] = rest / m[i][i];
  }
  return u;
}

}  // namespace

StepTime::StepTime(const StepTimeOptions& options)
    : decay_(std::exp(-1.0 / options.memory_steps)),
      coefficients_{options.base_seconds, options.seconds_per_prefill_token, options.seconds_per_attended,
                    options.seconds_per_decode_row} {
  BATON_CHECK(options.memory_steps >= 1 && options.base_seconds > 0 &&
              options.seconds_per_prefill_token > 0 && options.seconds_per_decode_row > 0 &&
              options.seconds_per_attended >= 0);
  // Unknowns are multiples of these, so that all are near 1: attention costs as much as the rest at 2,000
  // tokens.
  scale_ = coefficients_;
  scale_[2] = options.seconds_per_prefill_token / 2000;
}

void StepTime::observe(const StepLoad& load, double seconds) {
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  const Terms x = terms_of(load);
  Terms z;
  for (int i = 0; i < kTerms; ++i) z[i] = x[i] * scale_[i] / seconds;
  for (int r = 0; r < kTerms; ++r) {
    for (int c = 0; c < kTerms; ++c) normal_[r][c] = decay_ * normal_[r][c] + z[r] * z[c];
    moment_[r] = decay_ * moment_[r] + z[r];
  }
  if (load.prefill_tokens > 0)
    mean_context_ =
        kMeanContextDecay * mean_context_ + (1 - kMeanContextDecay) * load.attended / load.prefill_tokens;
  solve();
}

// Minimises sum (u.z - 1)^2 + kInertia |u - last u|^2 over u >= 0, clamping the most negative term until none
// is.
void StepTime::solve() {
  auto m = normal_;
  Terms v = moment_;
  for (int i = 0; i < kTerms; ++i) {
    m[i][i] += kInertia;
    v[i] += kInertia * coefficients_[i] / scale_[i];
  }
  std::array<bool, kTerms> active;
  active.fill(true);
  Terms u{};
  for (int round = 0; round < kTerms; ++round) {
    u = solve_active(m, v, active);
    const auto least = std::min_element(u.begin(), u.end());
    if (*least >= 0) break;
    active[least - u.begin()] = false;
    *least = 0;
  }
  for (int i = 0; i < kTerms; ++i) coefficients_[i] = std::max(0.0, u[i]) * scale_[i];
}

double StepTime::predict(const StepLoad& load) const {
  const Terms x = terms_of(load);
  double seconds = 0;
  for (int i = 0; i < kTerms; ++i) seconds += coefficients_[i] * x[i];
  return seconds;
}

int32_t StepTime::largest_chunk(const StepLoad& load, int32_t first, int32_t limit, double seconds) const {
  const auto fits = [&](int32_t count) {
    StepLoad with = load;
    with.prefill_tokens += count;
    with.attended += attended_pairs(first, count);
    return predict(with) <= seconds;
  };
  int32_t low = 0;  // fits, or 0
  int32_t high = std::max(limit, 0);
  while (low < high) {
    const int32_t middle = low + (high - low + 1) / 2;
    if (fits(middle))
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

double StepTime::prefill_seconds_per_token() const {
  return coefficients_[1] + coefficients_[2] * mean_context_;
}

}  // namespace baton::worker
