#pragma once

#include <array>
#include <cstdint>

namespace baton::worker {

// What a step has to do, as far as its time depends on it.
struct StepLoad {
  double prefill_tokens = 0;
  double attended = 0;  // (token, earlier position) pairs of the prefill tokens: sum of position + 1
  double decode_rows = 0;
};

// Pairs of a chunk of `count` tokens from position `first`. Example: first 100, count 3: 101 + 102 + 103 =
// 306.
constexpr double attended_pairs(int32_t first, int32_t count) {
  return static_cast<double>(count) * first + 0.5 * count * (count + 1.0);
}

struct StepTimeOptions {
  // Believed before the first steps were measured: rather too slow than too fast, so that the first chunk is
  // small.
  double base_seconds = 0.002;
  double seconds_per_prefill_token = 0.002;
  double seconds_per_attended = 0;
  double seconds_per_decode_row = 0.005;
  double memory_steps = 256;  // a measured step counts 1/e after so many later ones
};

// Predicts how long a step takes and learns from each measured one:
//   seconds = base + a * prefill tokens + c * attended pairs + b * decode rows        (all >= 0)
// Least squares on relative error with exponential forgetting; the first belief counts like one measured step
// each.
//
// Thread: engine. A pure function of its inputs; no allocation.
class StepTime {
 public:
  static constexpr int kTerms = 4;
  using Coefficients = std::array<double, kTerms>;  // base, a, c, b

  explicit StepTime(const StepTimeOptions& options = {});

  void observe(const StepLoad& load, double seconds);
  double predict(const StepLoad& load) const;
  // The most tokens from position `first`, at most `limit`, that added to `load` stay within `seconds`; 0
  // when none.
  int32_t largest_chunk(const StepLoad& load, int32_t first, int32_t limit, double seconds) const;

  double base_seconds() const { return coefficients_[0]; }
  // At the mean context of the recent prefill tokens.
  double prefill_seconds_per_token() const;
  double decode_seconds_per_sequence() const { return coefficients_[3]; }
  const Coefficients& coefficients() const { return coefficients_; }

 private:
  void solve();

  const double decay_;
  Coefficients scale_{};                       // unit of each coefficient
  std::array<Coefficients, kTerms> normal_{};  // sum of z z', z = terms * scale / measured seconds
  Coefficients moment_{};                      // sum of z
  Coefficients coefficients_{};
  double mean_context_ = 0;
};

}  // namespace baton::worker
