#include <benchmark/benchmark.h>

#include <atomic>

#include "base/agent.h"
#include "base/check.h"
#include "benchmarks/micro/synthetic_model.h"
#include "worker/kv_transfer/host_copier.h"

// What copies of KV blocks to host memory do to the steps beside them: decode of SmolLM2's shapes on one
// core, HostCopier on another. 0 blocks a step: no copies; 1: twice what 8 sequences make; 32: as fast as it
// can.
namespace baton::benchmarks {
namespace {

using namespace worker;

constexpr int kSequences = 8;
constexpr int64_t kSlots = 512;

SyntheticModel& smollm2() {
  static SyntheticModel model(kSmolLm2, 1, 64);
  return model;
}

HostCopy copy_out(uint64_t id, int blocks, int64_t pool_blocks) {
  HostCopy copy{.id = HostCopyId(id), .out = true};
  for (int i = 0; i < blocks; ++i) {
    const uint64_t at = id * static_cast<uint64_t>(blocks) + static_cast<uint64_t>(i);
    copy.blocks.push_back({.block = BlockId(static_cast<uint32_t>(at % static_cast<uint64_t>(pool_blocks))),
                           .slot = HostSlot(static_cast<uint32_t>(at % kSlots))});
  }
  return copy;
}

// args: positions before, blocks copied out beside each step
void decode_beside_copies(benchmark::State& state) {
  SyntheticModel& model = smollm2();
  const auto context = static_cast<int>(state.range(0)), blocks = static_cast<int>(state.range(1));
  const SteadyClock clock;
  std::atomic<uint64_t> ended = 0;
  auto copier = HostCopier::make({.geometry = model.geometry(), .pool = model.pool(), .slots = kSlots}, clock,
                                 [&](const HostCopied&) { ++ended; });
  BATON_CHECK(copier.ok());
  uint64_t ordered = 0;
  {
    const AgentThread thread("copier", [&](const std::stop_token& stop) { (*copier)->run(stop); });
    for (auto _ : state) {
      if (blocks > 0 && ordered - ended < 2)
        (*copier)->copy(copy_out(++ordered, blocks, model.geometry().blocks));
      model.step(kSequences, 1, context);
    }
    (*copier)->close();
  }
  const double bytes = static_cast<double>(ended) * blocks * static_cast<double>((*copier)->block_bytes());
  // Per second of the steps' own time.
  state.counters["copied"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsRate, benchmark::Counter::kIs1024);
}
BENCHMARK(decode_beside_copies)
    ->ArgNames({"context", "blocks"})
    ->ArgsProduct({{32, 512}, {0, 1, 32}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton::benchmarks

BENCHMARK_MAIN();
