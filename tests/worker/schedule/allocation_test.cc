#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "worker/schedule/scheduler.h"

// Counts every allocation of this program: planning steady steps must make none.
namespace {
std::atomic<uint64_t> allocations{0};
}  // namespace

// GCC takes the pair apart when it inlines one of them.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace baton::worker {
namespace {

class Quiet final : public AdmissionListener {
 public:
  absl::Status on_admitted(Sequence&, int32_t) override { return absl::OkStatus(); }
  void on_dropped(Sequence&, const absl::Status&) override { ADD_FAILURE(); }
};

TEST(SchedulerAllocation, SteadyStepsOf256SequencesAllocateNothing) {
  SchedulerOptions options;
  options.context_tokens = 4096;
  options.max_running = 300;
  options.itl_objective = std::chrono::hours(1);
  options.step_objective = std::chrono::hours(1);
  KvCache cache(60'000, 16);
  Scheduler scheduler(options, cache);
  Quiet listener;
  StepPlan plan;
  const auto run = [&] {
    scheduler.plan(Instant{}, listener, plan);
    const uint64_t after = allocations;
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      Sequence& sequence = scheduler.computed(plan, i);
      if (plan.rows[i].sample) sequence.tokens.push_back(5);
    }
    scheduler.observe_step(0.01);
    return after;
  };
  for (uint64_t i = 0; i < 256; ++i) {
    GenerateRequest request{.id = RequestId(i + 1)};
    request.prompt.assign(100 + i, static_cast<TokenId>(i));
    request.stop.max_tokens = 3000;
    scheduler.add({.request = request}, Instant{});
  }
  for (int i = 0; i < 200; ++i) run();
  ASSERT_EQ(plan.rows.size(), 256u);
  GenerateRequest late{.id = RequestId(999)};
  late.prompt.assign(2000, 7);
  late.stop.max_tokens = 2000;
  scheduler.add({.request = late}, Instant{});  // so that chunks are planned too
  run();
  for (int i = 0; i < 100; ++i) {
    const uint64_t before = allocations;
    EXPECT_EQ(run(), before) << "in step " << i;
  }
}

}  // namespace
}  // namespace baton::worker
