#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <vector>

#include "tests/support/kvhash_executor.h"
#include "worker/schedule/scheduler.h"

namespace baton::worker {

inline constexpr int kBlock = 4;

class Listener final : public AdmissionListener {
 public:
  absl::Status on_admitted(Sequence& sequence, int32_t first_block) override {
    admitted.push_back(sequence.id);
    first_blocks.push_back(first_block);
    return answer;
  }
  void on_dropped(Sequence& sequence, const absl::Status& why) override {
    dropped.push_back(sequence.id);
    last_why = why;
  }
  absl::Status answer;
  std::vector<SequenceId> admitted, dropped;
  std::vector<int32_t> first_blocks;
  absl::Status last_why;
};

inline SchedulerOptions small_options() {
  SchedulerOptions options;
  options.context_tokens = 256;
  options.token_budget = 64;
  options.max_running = 16;
  options.min_chunk = 4;
  options.headroom_tokens = 4;
  options.step_time = {.base_seconds = 1e-3,
                       .seconds_per_prefill_token = 1e-4,
                       .seconds_per_attended = 0,
                       .seconds_per_decode_row = 1e-4,
                       .memory_steps = 1e9};
  return options;
}

// A scheduler, its cache and the KvHash model, run step by step.
class SchedulerTest : public testing::Test {
 protected:
  void make(int64_t blocks, const SchedulerOptions& options = small_options()) {
    cache_ = std::make_unique<KvCache>(blocks, kBlock);
    scheduler_ = std::make_unique<Scheduler>(options, *cache_);
    scheduler_->set_hash_key({1, 2});
    pool_ = std::make_unique<baton::support::KvHashPool>(1, blocks, kBlock);
    executor_ = std::make_unique<baton::support::KvHashExecutor>(*pool_, model_);
  }
  static GenerateRequest request(uint64_t id, int prompt, int max_tokens, TokenId first = 0) {
    GenerateRequest r{.id = RequestId(id)};
    for (int i = 0; i < prompt; ++i) r.prompt.push_back((first + i) % 900);
    r.stop.max_tokens = max_tokens;
    return r;
  }
  Sequence& add(const GenerateRequest& r, Leg leg = Leg::kWhole) {
    Submit submit{.request = r, .leg = leg, .transfer = TransferId(r.id.value())};
    if (leg != Leg::kWhole) submit.peer = WorkerRef{"peer", Incarnation(1)};
    std::string detail;
    EXPECT_EQ(scheduler_->check(submit, detail), RefuseReason::kNone) << detail;
    return scheduler_->add(submit, now_);
  }
  bool plan() {
    pool_->poison_free(cache_->pool());
    scheduler_->plan(now_, listener_, plan_);
    scheduler_->check_invariants();
    cache_->check_invariants();
    return !plan_.rows.empty();
  }
  // Runs the plan; sequences that reach max_tokens leave.
  void run() {
    StepResult result;
    const absl::Status status = executor_->run(plan_, {}, result);
    ASSERT_TRUE(status.ok()) << status.message();
    size_t next = 0;
    std::vector<Sequence*> done;
    for (size_t i = 0; i < plan_.rows.size(); ++i) {
      Sequence& s = scheduler_->computed(plan_, i);
      if (next == result.sampled.size() || result.sampled[next].planned != i) continue;
      s.tokens.push_back(result.sampled[next++].token->token);
      outputs_[s.request.id].push_back(s.tokens.back());
      if (s.generated() == s.request.stop.max_tokens) done.push_back(&s);
    }
    for (Sequence* s : done) {
      finished_.push_back(s->request.id);
      scheduler_->remove(*s);
    }
    ++steps_;
  }
  bool step() {
    if (!plan()) return false;
    run();
    return true;
  }
  const PlannedRows* rows_of(const Sequence& s) const {
    for (const auto& rows : plan_.rows)
      if (rows.sequence == &s) return &rows;
    return nullptr;
  }

  baton::support::KvHashOptions model_;
  Instant now_{};
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<baton::support::KvHashPool> pool_;
  std::unique_ptr<baton::support::KvHashExecutor> executor_;
  Listener listener_;
  StepPlan plan_;
  std::map<RequestId, std::vector<TokenId>> outputs_;
  std::vector<RequestId> finished_;
  int steps_ = 0;
};

}  // namespace baton::worker
