#include <benchmark/benchmark.h>

#include <chrono>
#include <thread>
#include <vector>

#include "kernels/cpu/thread_pool.h"

// What it costs to fork and join: a step of SmolLM2 does it about 150 times.
namespace baton::benchmarks {
namespace {

using kernels::cpu::ThreadPool;

// Back to back: everybody spins.
void fork_join(benchmark::State& state) {
  ThreadPool pool(static_cast<int>(state.range(0)), {});
  std::vector<int> counts(64 * state.range(0));
  for (auto _ : state) pool.run([&](int thread) { ++counts[64 * thread]; });
}
BENCHMARK(fork_join)->ArgName("threads")->Arg(1)->Arg(2)->Arg(4)->UseRealTime();

// With work of `ns` nanoseconds in every thread; time: what is left beside it.
void fork_join_around_work(benchmark::State& state) {
  using Steady = std::chrono::steady_clock;
  ThreadPool pool(static_cast<int>(state.range(0)), {});
  const std::chrono::nanoseconds work(state.range(1));
  for (auto _ : state) {
    const auto start = Steady::now();
    pool.run([&](int) {
      const auto begun = Steady::now();
      while (Steady::now() - begun < work) {
      }
    });
    state.SetIterationTime(std::chrono::duration<double>(Steady::now() - start - work).count());
  }
}
BENCHMARK(fork_join_around_work)
    ->ArgNames({"threads", "ns"})
    ->Args({1, 10'000})
    ->Args({2, 10'000})
    ->Args({2, 40'000})
    ->UseManualTime();

// After a pause long enough for the others to sleep: the first step after an idle time.
void fork_join_asleep(benchmark::State& state) {
  using Steady = std::chrono::steady_clock;
  ThreadPool pool(static_cast<int>(state.range(0)), {});
  std::vector<int> counts(64 * state.range(0));
  for (auto _ : state) {
    std::this_thread::sleep_for(std::chrono::microseconds(300));
    const auto start = Steady::now();
    pool.run([&](int thread) { ++counts[64 * thread]; });
    state.SetIterationTime(std::chrono::duration<double>(Steady::now() - start).count());
  }
}
BENCHMARK(fork_join_asleep)->ArgName("threads")->Arg(2)->UseManualTime();

}  // namespace
}  // namespace baton::benchmarks

BENCHMARK_MAIN();
