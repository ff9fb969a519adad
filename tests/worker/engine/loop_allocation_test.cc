#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "worker/engine/engine_loop.h"
#include "worker/kv_cache/no_exchange.h"

// Counts every allocation of this program: a turn of the loop makes none but those of the message it sends.
namespace {
uint64_t allocations = 0;
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

class Instantaneous final : public StepExecutor {
 public:
  absl::Status start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override {
    result.sampled.clear();
    on_layer(0);
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      if (!plan.rows[i].sample) continue;
      SampledRow& row = result.sampled.emplace_back();
      row.planned = i;
      row.token.emplace().token = plan.rows[i].first_position % 50;
    }
    result.duration = std::chrono::milliseconds(2);
    return absl::OkStatus();
  }
};

TEST(LoopAllocation, ATurnAllocatesItsMessageAndNothingElse) {
  EngineOptions options{.blocks = 2000, .block_tokens = 16};
  options.scheduler.context_tokens = 4096;
  options.scheduler.itl_objective = options.scheduler.step_objective = std::chrono::hours(1);
  SteadyClock clock;
  NoExchange exchange;
  Instantaneous executor;
  EngineMailbox mailbox(100);
  Engine engine(options, exchange);
  size_t sent = 0, reports_with_blocks = 0;
  EngineLoop loop({engine, executor, mailbox, clock}, [&](std::vector<WorkerMessage>& messages) {
    const std::vector<WorkerMessage> taken = std::exchange(messages, {});
    for (const WorkerMessage& m : taken) {
      const auto* report = std::get_if<StepReport>(&m);
      if (report == nullptr) continue;
      sent += report->sequences.size();
      reports_with_blocks += !report->blocks_stored.empty();
    }
  });
  ASSERT_TRUE(mailbox.post(SetHashKey{{1, 2}}));
  for (uint64_t i = 1; i <= 8; ++i) {
    GenerateRequest request{.id = RequestId(i)};
    request.prompt.assign(20 + i, static_cast<TokenId>(i));
    request.stop.max_tokens = 3000;
    ASSERT_TRUE(mailbox.post(CoordinatorMessage(Submit{.request = request})));
  }
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(*loop.do_work(clock.now()));
  for (int i = 0; i < 200; ++i) {
    sent = reports_with_blocks = 0;
    const uint64_t before = allocations;
    ASSERT_TRUE(*loop.do_work(clock.now()));
    // The list of messages, the list of sequences, each one's tokens, and the hashes of full blocks.
    EXPECT_LE(allocations - before, 2 + sent + reports_with_blocks) << "turn " << i;
    EXPECT_EQ(sent, 8u);
    EXPECT_EQ(loop.status().load.running, 8);
  }
}

}  // namespace
}  // namespace baton::worker
