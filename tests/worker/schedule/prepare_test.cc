#include <gtest/gtest.h>

#include <iostream>
#include <map>

#include "base/rng.h"
#include "worker/schedule/scheduler.h"

// A plan that was prepared while the step before it ran is the plan that would have been made after it.
namespace baton::worker {
namespace {

class Quiet final : public AdmissionListener {
 public:
  absl::Status on_admitted(Sequence&, int32_t) override { return absl::OkStatus(); }
  void on_dropped(Sequence&, const absl::Status&) override { ADD_FAILURE(); }
};

using Rows = std::vector<std::tuple<RequestId, int32_t, int32_t, bool>>;

class Worker {
 public:
  Worker(const SchedulerOptions& options, int64_t blocks, bool prepares)
      : prepares_(prepares), cache_(blocks, 4), scheduler_(options, cache_) {}

  void add(const Submit& submit) { by_request_[submit.request.id] = &scheduler_.add(submit, Instant{}); }
  void remove(RequestId id) {
    if (const auto it = by_request_.find(id); it != by_request_.end()) leave(it);
  }
  Rows plan() {
    scheduler_.plan(Instant{}, quiet_, plan_);
    scheduler_.check_invariants();
    Rows rows;
    for (const PlannedRows& r : plan_.rows)
      rows.emplace_back(r.sequence->request.id, r.first_position, r.row_count, r.sample);
    EXPECT_EQ(plan_.total_rows, total(rows));
    return rows;
  }
  void run() {
    if (prepares_) scheduler_.prepare();
    for (size_t i = 0; i < plan_.rows.size(); ++i) {
      const bool sample = plan_.rows[i].sample;
      Sequence& sequence = scheduler_.computed(plan_, i);
      if (!sample) continue;
      sequence.tokens.push_back(static_cast<TokenId>(sequence.tokens.size()));
      const auto it = by_request_.find(sequence.request.id);
      const bool stops = sequence.generated() == static_cast<int>(sequence.request.sampling.seed);
      if (stops || sequence.generated() >= sequence.request.stop.max_tokens) leave(it);
    }
  }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  static int32_t total(const Rows& rows) {
    int32_t sum = 0;
    for (const auto& row : rows) sum += std::get<2>(row);
    return sum;
  }
  void leave(std::map<RequestId, Sequence*>::iterator it) {
    scheduler_.remove(*it->second);
    by_request_.erase(it);
  }

  const bool prepares_;
  KvCache cache_;
  Scheduler scheduler_;
  Quiet quiet_;
  StepPlan plan_;
  std::map<RequestId, Sequence*> by_request_;
};

TEST(Prepare, GivesThePlanThatWouldHaveBeenMade) {
  constexpr uint64_t kSeed = 7;
  std::cout << "seed " << kSeed << "\n";
  Rng rng(kSeed);
  SchedulerOptions options;
  options.max_running = 12;
  options.itl_objective = options.step_objective = std::chrono::hours(1);
  Worker ahead(options, 4000, true), after(options, 4000, false);
  size_t rows = 0;
  for (uint64_t step = 0; step < 3000; ++step) {
    for (int i = rng.below(4) == 0 ? 2 : 0; i > 0; --i) {
      GenerateRequest r{.id = RequestId(step * 4 + i)};
      for (uint64_t t = 0, n = 1 + rng.below(60); t < n; ++t) r.prompt.push_back(static_cast<TokenId>(t % 7));
      r.stop.max_tokens = static_cast<int32_t>(1 + rng.below(40));
      r.sampling.seed = 1 + rng.below(60);  // the test's own meaning: stops after so many tokens
      ahead.add({.request = r});
      after.add({.request = r});
    }
    if (rng.below(8) == 0) {  // the client leaves
      const RequestId gone(4 * rng.below(step + 1) + 1);
      ahead.remove(gone);
      after.remove(gone);
    }
    const Rows expected = after.plan();
    ASSERT_EQ(ahead.plan(), expected) << "step " << step;
    rows += expected.size();
    ahead.run();
    after.run();
  }
  EXPECT_GT(rows, 10'000u);
}

// When the last decode leaves, the chunk that was cut for its sake is cut anew.
TEST(Prepare, ChunksGrowWhenNobodyDecodesAnyMore) {
  SchedulerOptions options;
  options.context_tokens = 8192;
  options.step_time = {.base_seconds = 1e-3,
                       .seconds_per_prefill_token = 1e-4,
                       .seconds_per_decode_row = 1e-4,
                       .memory_steps = 1e9};
  options.itl_objective = std::chrono::milliseconds(10);
  options.step_objective = std::chrono::milliseconds(100);
  Worker worker(options, 4000, true);
  GenerateRequest decode{.id = RequestId(1)}, prefill{.id = RequestId(2)};
  decode.prompt.assign(4, 1);
  decode.stop.max_tokens = 100;
  decode.sampling.seed = 3;
  prefill.prompt.assign(4000, 2);
  worker.add({.request = decode});
  worker.plan();
  worker.run();
  worker.add({.request = prefill});
  Rows rows = worker.plan();  // both: 1 + 0.1 ms for the decode, 8.9 ms for the chunk
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(std::get<2>(rows[1]), 89);
  worker.run();
  rows = worker.plan();
  EXPECT_EQ(std::get<2>(rows[1]), 89);
  worker.run();  // the decode's third token ends it, against what was prepared
  rows = worker.plan();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(std::get<2>(rows[0]), 990);
}

// With too few blocks for what comes, nothing is prepared and the youngest gives way between the steps.
TEST(Prepare, LeavesPreemptionToThePlan) {
  SchedulerOptions options;
  options.headroom_tokens = 0;
  Worker worker(options, 8, true);
  for (uint64_t id : {1, 2}) {
    GenerateRequest r{.id = RequestId(id)};
    r.prompt.assign(12, static_cast<TokenId>(id));
    r.stop.max_tokens = 16;
    r.sampling.seed = 100;
    worker.add({.request = r});
  }
  std::map<RequestId, int> sampled;
  for (int step = 0; step < 100; ++step) {
    for (const auto& row : worker.plan()) sampled[std::get<0>(row)] += std::get<3>(row);
    worker.run();
  }
  EXPECT_GT(worker.scheduler().preemptions(), 0u);
  EXPECT_EQ(sampled[RequestId(1)], 16);
  EXPECT_EQ(sampled[RequestId(2)], 16);
}

}  // namespace
}  // namespace baton::worker
