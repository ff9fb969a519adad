#include "worker/schedule/step_time.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"

namespace baton::worker {
namespace {

// A machine on which up to 16 rows are nearly free beside the weights.
struct Truth {
  double base = 0.004, few = 10e-6, prefill = 80e-6, attended = 4e-9, decode = 200e-6, context = 30e-9;
  double operator()(const StepLoad& l) const {
    const double rows = l.prefill_tokens + l.decode_rows;
    return base + few * std::min(rows, 16.0) + prefill * std::max(rows - 16, 0.0) + attended * l.attended +
           decode * l.decode_rows + context * l.decode_context;
  }
};

StepLoad random_load(Rng& rng) {
  StepLoad load;
  if (rng.below(3) != 0) load.decode_rows = static_cast<double>(rng.below(64));
  load.decode_context = load.decode_rows * static_cast<double>(rng.below(2000));
  if (rng.below(2) == 0 || load.decode_rows == 0) {
    const auto count = static_cast<int32_t>(1 + rng.below(1024));
    load.prefill_tokens = count;
    load.attended = attended_pairs(static_cast<int32_t>(rng.below(8000)), count);
  }
  return load;
}

TEST(StepTime, AttendedPairsExample) { EXPECT_DOUBLE_EQ(attended_pairs(100, 3), 101 + 102 + 103); }

TEST(StepTime, LearnsTheMachineWithinTenPercent) {
  Rng rng(5);
  StepTime model;
  const Truth truth;
  for (int i = 0; i < 200; ++i) {
    const StepLoad load = random_load(rng);
    const double noise = 0.95 + 0.1 * rng.next_double();
    model.observe(load, truth(load) * noise);
  }
  for (int i = 0; i < 200; ++i) {
    const StepLoad load = random_load(rng);
    EXPECT_NEAR(model.predict(load) / truth(load), 1.0, 0.10);
  }
}

TEST(StepTime, FollowsAMachineThatSlowsDown) {
  Rng rng(6);
  StepTime model;
  Truth truth;
  for (int i = 0; i < 500; ++i) {
    const StepLoad load = random_load(rng);
    model.observe(load, truth(load));
  }
  truth.prefill *= 3;
  for (int i = 0; i < 1500; ++i) {
    const StepLoad load = random_load(rng);
    model.observe(load, truth(load));
  }
  EXPECT_NEAR(model.coefficients()[StepTime::kManyRows] / truth.prefill, 1.0, 0.1);
}

TEST(StepTime, KeepsWhatTheLastStepsDidNotTell) {
  Rng rng(7);
  StepTime model;
  const Truth truth;
  for (int i = 0; i < 300; ++i) {
    const StepLoad load = random_load(rng);
    model.observe(load, truth(load));
  }
  const double before = model.coefficients()[StepTime::kManyRows];
  for (int i = 0; i < 5000; ++i) {
    const StepLoad load{.decode_rows = 8};
    model.observe(load, truth(load));
  }
  EXPECT_NEAR(model.coefficients()[StepTime::kManyRows] / before, 1.0, 0.05);
}

TEST(StepTime, TellsHowWrongItIs) {
  Rng rng(9);
  StepTime model;
  const Truth truth;
  StepLoad load = random_load(rng);
  model.observe(load, truth(load));
  EXPECT_GT(model.error_p95(), 0);
  for (int i = 0; i < 3000; ++i) {
    load = random_load(rng);
    model.observe(load, truth(load) * (rng.below(20) == 0 ? 1.5 : 1.0));
  }
  EXPECT_LT(model.error_p50(), 0.1);
  EXPECT_GT(model.error_p95(), model.error_p50());
  EXPECT_LT(model.error_p95(), 0.5);
  const double before = model.predict(load), total = model.predicted_total();
  model.observe(load, truth(load));
  EXPECT_DOUBLE_EQ(model.predicted_seconds(), before);
  EXPECT_DOUBLE_EQ(model.predicted_total(), total + before);
}

TEST(RunningQuantile, RestsWhereTheShareIsAbove) {
  Rng rng(10);
  RunningQuantile p95(0.95), p50(0.5);
  RunningQuantile first(0.95);
  first.add(0.3);
  EXPECT_EQ(first.value(), 0.3);
  double sum95 = 0, sum50 = 0;
  for (int i = 0; i < 20'000; ++i) {
    const double x = rng.next_double();
    p95.add(x), p50.add(x);
    if (i >= 10'000) sum95 += p95.value(), sum50 += p50.value();
  }
  EXPECT_NEAR(sum95 / 10'000, 0.95, 0.05);
  EXPECT_NEAR(sum50 / 10'000, 0.5, 0.05);
}

TEST(StepTime, CoefficientsAreNeverNegative) {
  Rng rng(8);
  StepTime model;
  for (int i = 0; i < 2000; ++i) {
    model.observe(random_load(rng), 1e-5 + rng.next_double());  // noise without sense
    for (double c : model.coefficients()) ASSERT_GE(c, 0);
  }
  model.observe({}, 0);
  model.observe({}, -1);
  for (double c : model.coefficients()) ASSERT_GE(c, 0);
}

TEST(StepTime, LargestChunkIsTheLargest) {
  StepTime model({.base_seconds = 0.002,
                  .seconds_per_prefill_token = 100e-6,
                  .seconds_per_attended = 10e-9,
                  .seconds_per_decode_row = 1e-3});
  const StepLoad load{.decode_rows = 10};
  const int32_t count = model.largest_chunk(load, 4000, 100'000, 0.050);
  const auto with = [&](int32_t n) {
    return model.predict(
        {.prefill_tokens = double(n), .attended = attended_pairs(4000, n), .decode_rows = 10});
  };
  EXPECT_GT(count, 0);
  EXPECT_LE(with(count), 0.050);
  EXPECT_GT(with(count + 1), 0.050);
  EXPECT_EQ(model.largest_chunk(load, 0, 7, 0.050), 7);
  EXPECT_EQ(model.largest_chunk({.decode_rows = 60}, 0, 100, 0.050), 0);
}

}  // namespace
}  // namespace baton::worker
