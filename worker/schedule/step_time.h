#pragma once

#include <array>
#include <cstdint>

namespace baton::worker {

// What a step has to do, as far as its time depends on it.
struct StepLoad {
  double prefill_tokens = 0;
  double attended = 0;  // (token, earlier position) pairs of the prefill tokens: sum of position + 1
  double decode_rows = 0;
  double decode_context = 0;  // positions that the decode rows attend to
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
  double seconds_per_decode_row = 0.005;  // at least that of a prefill token
  // Up to so many rows a step waits for the weights to pass, not for arithmetic: a row among these costs less
  // (CPU, 4 bit: 9; 8 bit: 17).
  double few_rows = 16;
  double memory_steps = 256;  // a measured step counts 1/e after so many later ones
};

// Follows a quantile of what it is given: a value above pushes it up, one below pulls it down, in the ratio
// of the quantile. Example p = 0.95, rate 0.1: up by 9.5 %, down by 0.5 %; it rests where 1 in 20 is above.
class RunningQuantile {
 public:
  explicit RunningQuantile(double p) : p_(p) {}
  void add(double value);
  double value() const { return value_; }

 private:
  const double p_;
  double value_ = 0;
};

// Predicts how long a step takes and learns from each measured one. With rows = prefill tokens + decode rows:
//   seconds = base                                the weights pass by
//           + few * min(rows, 16)                 rows that hide behind them
//           + many * max(rows - 16, 0)            rows that wait for arithmetic
//           + decode * decode rows                their logits and their token
//           + pair * attended pairs               attention of prefill tokens
//           + context * decode context            KV that decode rows read                     (all >= 0)
// Least squares on relative error with exponential forgetting; what recent steps do not tell stays as it was.
//
// Thread: engine. A pure function of its inputs; no allocation.
class StepTime {
 public:
  enum Term { kBase, kFewRows, kManyRows, kDecodeRow, kAttended, kDecodeContext, kTerms };
  using Coefficients = std::array<double, kTerms>;
  static constexpr std::array<const char*, kTerms> kTermNames = {
      "base", "few_rows", "many_rows", "decode_row", "attended_pair", "decode_context"};

  explicit StepTime(const StepTimeOptions& options = {});

  void observe(const StepLoad& load, double seconds);
  double predict(const StepLoad& load) const;
  // The most tokens from position `first`, at most `limit`, that added to `load` stay within `seconds`; 0
  // when none.
  int32_t largest_chunk(const StepLoad& load, int32_t first, int32_t limit, double seconds) const;

  // For others, who only know of tokens and sequences.
  double base_seconds() const { return coefficients_[kBase]; }
  double prefill_seconds_per_token() const;    // in a large chunk at the mean context of the recent ones
  double decode_seconds_per_sequence() const;  // one of few, at the mean context of the recent ones
  const Coefficients& coefficients() const { return coefficients_; }

  // Of the step that was observed last, made just before.
  double predicted_seconds() const { return predicted_; }
  double predicted_total() const { return predicted_total_; }
  // |predicted - measured| / measured, at most 1, of the recent steps.
  double error_p50() const { return error_p50_.value(); }
  double error_p95() const { return error_p95_.value(); }

 private:
  Coefficients terms_of(const StepLoad& load) const;
  void note_error(const StepLoad& load, double seconds);
  void solve();

  const double decay_;
  const double few_rows_;
  Coefficients scale_{};                       // unit of each coefficient
  std::array<Coefficients, kTerms> normal_{};  // sum of z z', z = terms * scale / measured seconds
  Coefficients moment_{};                      // sum of z
  Coefficients coefficients_{};
  double mean_context_ = 0;         // of prefill tokens
  double mean_decode_context_ = 0;  // of decode rows
  double predicted_ = 0;
  double predicted_total_ = 0;
  RunningQuantile error_p50_{0.5};
  RunningQuantile error_p95_{0.95};
};

}  // namespace baton::worker
