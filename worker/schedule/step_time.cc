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

// Solves the active rows of m u = v by elimination; inactive entries are 0. m is symmetric positive definite.
Terms solve_active(std::array<Terms, StepTime::kTerms> m, Terms v,
                   const std::array<bool, StepTime::kTerms>& active) {
  constexpr size_t n = StepTime::kTerms;
  for (size_t i = 0; i < n; ++i) {
    if (!active[i]) continue;
    for (size_t r = i + 1; r < n; ++r) {
      if (!active[r]) continue;
      const double factor = m[r][i] / m[i][i];
      for (size_t c = i; c < n; ++c) m[r][c] -= factor * m[i][c];
      v[r] -= factor * v[i];
    }
  }
  Terms u{};
  for (size_t i = n; i-- > 0;) {
    if (!active[i]) continue;
    double rest = v[i];
    for (size_t c = i + 1; c < n; ++c) rest -= active[c] ? m[i][c] * u[c] : 0.0;
    u[i] = rest / m[i][i];
  }
  return u;
}

}  // namespace

void RunningQuantile::add(double value) {
  constexpr double kRate = 0.1;
  constexpr double kLeast = 1e-4;  // it grows by factors, so it must not reach zero
  if (value_ == 0) {
    value_ = std::max(value, kLeast);
    return;
  }
  value_ = std::max(value_, kLeast);
  value_ *= value > value_ ? 1 + kRate * p_ : 1 - kRate * (1 - p_);
}

StepTime::StepTime(const StepTimeOptions& options)
    : decay_(std::exp(-1.0 / options.memory_steps)), few_rows_(options.few_rows) {
  const double row = options.seconds_per_prefill_token;
  BATON_CHECK(options.memory_steps >= 1 && options.base_seconds > 0 && row > 0 && options.few_rows >= 0 &&
              options.seconds_per_decode_row >= row && options.seconds_per_attended >= 0);
  coefficients_ = {options.base_seconds,         row, row, options.seconds_per_decode_row - row,
                   options.seconds_per_attended, 0};
  // Unknowns are multiples of these, so that all are near 1: attention costs as much as the rest at 2,000
  // tokens.
  scale_ = {options.base_seconds, row, row, row, row / 2000, row / 2000};
}

Terms StepTime::terms_of(const StepLoad& load) const {
  const double rows = load.prefill_tokens + load.decode_rows;
  const double few = std::min(rows, few_rows_);
  return {1.0, few, rows - few, load.decode_rows, load.attended, load.decode_context};
}

void StepTime::note_error(const StepLoad& load, double seconds) {
  predicted_ = predict(load);
  predicted_total_ += predicted_;
  const double error = std::min(std::abs(predicted_ - seconds) / seconds, 1.0);
  error_p50_.add(error);
  error_p95_.add(error);
}

void StepTime::observe(const StepLoad& load, double seconds) {
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  note_error(load, seconds);
  const Terms x = terms_of(load);
  Terms z;
  for (size_t i = 0; i < kTerms; ++i) z[i] = x[i] * scale_[i] / seconds;
  for (size_t r = 0; r < kTerms; ++r) {
    for (size_t c = 0; c < kTerms; ++c) normal_[r][c] = decay_ * normal_[r][c] + z[r] * z[c];
    moment_[r] = decay_ * moment_[r] + z[r];
  }
  const auto follow = [](double& mean, double sum, double count) {
    if (count > 0) mean = kMeanContextDecay * mean + (1 - kMeanContextDecay) * sum / count;
  };
  follow(mean_context_, load.attended, load.prefill_tokens);
  follow(mean_decode_context_, load.decode_context, load.decode_rows);
  solve();
}

// Minimises sum (u.z - 1)^2 + kInertia |u - last u|^2 over u >= 0, clamping the most negative term until none
// is.
void StepTime::solve() {
  auto m = normal_;
  Terms v = moment_;
  for (size_t i = 0; i < kTerms; ++i) {
    m[i][i] += kInertia;
    v[i] += kInertia * coefficients_[i] / scale_[i];
  }
  std::array<bool, kTerms> active;
  active.fill(true);
  Terms u{};
  for (size_t round = 0; round < kTerms; ++round) {
    u = solve_active(m, v, active);
    const auto least = std::min_element(u.begin(), u.end());
    if (*least >= 0) break;
    active[least - u.begin()] = false;
    *least = 0;
  }
  for (size_t i = 0; i < kTerms; ++i) coefficients_[i] = std::max(0.0, u[i]) * scale_[i];
}

double StepTime::predict(const StepLoad& load) const {
  const Terms x = terms_of(load);
  double seconds = 0;
  for (size_t i = 0; i < kTerms; ++i) seconds += coefficients_[i] * x[i];
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
  return coefficients_[kManyRows] + coefficients_[kAttended] * mean_context_;
}

double StepTime::decode_seconds_per_sequence() const {
  return coefficients_[kFewRows] + coefficients_[kDecodeRow] +
         coefficients_[kDecodeContext] * mean_decode_context_;
}

}  // namespace baton::worker
