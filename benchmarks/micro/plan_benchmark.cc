#include <benchmark/benchmark.h>

#include <numeric>
#include <thread>

#include "base/check.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/parallel/plan_broadcast.h"

// What it costs rank 0 to say what a step computes: made, written, handed to the others (threads here, over
// the shared memory that processes use too).
namespace baton::worker {
namespace {

constexpr PlanLimits kLimits{.max_rows = 512, .max_positions = 4096, .blocks = 100'000, .vocab = 49152};

struct Batch {
  BatchRows rows;
  std::vector<SequenceId> ids;
  std::vector<std::vector<BlockId>> tables;
};

// `sequences` decode rows at a depth of 1,000, or prompts of so many rows each.
Batch make_batch(int sequences, int rows) {
  Batch b;
  b.tables.resize(sequences);
  for (int s = 0; s < sequences; ++s) {
    const int first = rows == 1 ? 1000 : 0;
    for (int block = 0; block < (first + rows + 15) / 16; ++block)
      b.tables[s].push_back(BlockId(static_cast<uint32_t>(s * 300 + block)));
    b.rows.sequences.push_back({s * rows, rows, first, b.tables[s]});
    for (int i = 0; i < rows; ++i) b.rows.tokens.push_back(i), b.rows.positions.push_back(first + i);
    b.rows.logit_rows.push_back((s + 1) * rows - 1);
    b.rows.keep.push_back(0);
    b.ids.push_back(SequenceId(static_cast<uint64_t>(s + 1)));
  }
  return b;
}

// Time an iteration: rank 0's. The follower answers each plan, so that it waits for the next one, as it does
// in life; the answer is not timed.
void send_plan(benchmark::State& state) {
  SteadyClock clock;
  auto ranks = thread_ranks(2).value();
  const ParallelShape shape{2, 1};
  RankLinks zero({*ranks[0], *ranks[0], clock, std::chrono::seconds(5)}, shape);
  RankLinks one({*ranks[1], *ranks[1], clock, std::chrono::seconds(5)}, shape);
  std::thread follower([&] {
    PlanReceiver plans(one, kLimits);
    std::byte answer{};
    while (plans.receive(clock.now() + std::chrono::seconds(5)).value().kind != PlanKind::kStop)
      one.report({&answer, 1});
  });
  PlanSender plans(zero, kLimits, clock);
  const Batch batch = make_batch(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  for (auto _ : state) {
    const Instant begun = clock.now();
    BATON_CHECK(plans.step(StepId(1), batch.ids, batch.rows, 1).ok());
    state.SetIterationTime(to_seconds(clock.now() - begun));
    std::byte answer{};
    zero.hear(1, {&answer, 1});
  }
  BATON_CHECK(plans.stop().ok());
  follower.join();
}
BENCHMARK(send_plan)
    ->ArgNames({"sequences", "rows"})
    ->Args({1, 1})
    ->Args({32, 1})
    ->Args({256, 1})
    ->Args({1, 512})
    ->UseManualTime();

}  // namespace
}  // namespace baton::worker

BENCHMARK_MAIN();
