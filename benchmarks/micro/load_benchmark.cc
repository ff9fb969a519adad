#include <benchmark/benchmark.h>

#include "benchmarks/micro/machine.h"
#include "benchmarks/micro/synthetic_model.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/thread_pool.h"

// Repacking a matrix of 64 M weights (none fits a cache) into fresh memory, as when a model is loaded. Rate:
// bytes of the file; of_read: share of the read bandwidth of as many threads (fresh pages are zeroed by the
// kernel, then written: a third is much).
namespace baton::benchmarks {
namespace {

using namespace kernels;
using namespace kernels::cpu;

void pack(benchmark::State& state, DType type) {
  constexpr int64_t kCols = 2048, kRows = 32768;
  const auto threads = static_cast<int>(state.range(0));
  const std::vector<std::byte> stored = random_weights(type, kRows, kCols);
  ThreadPool pool(threads, {});
  for (auto _ : state) {
    WeightArena arena;
    const Panels panels({type, stored.data(), kRows, kCols}, 1, pool, arena);
    benchmark::DoNotOptimize(panels.view().data);
  }
  const double bytes = static_cast<double>(stored.size()) * static_cast<double>(state.iterations());
  state.counters["bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(bytes / ceilings(threads).read, benchmark::Counter::kIsRate);
}

#define PACK(name, type)                                           \
  BENCHMARK_CAPTURE(pack, name, type)->ArgName("threads")->Arg(1); \
  BENCHMARK_CAPTURE(pack, name, type)->ArgName("threads")->Arg(2)->UseRealTime()
PACK(q4_0, DType::kQ4_0);
PACK(q4_1, DType::kQ4_1);
PACK(q8_0, DType::kQ8_0);
PACK(bf16, DType::kBF16);
PACK(f32, DType::kF32);
PACK(q2_k, DType::kQ2_K);
PACK(q4_k, DType::kQ4_K);
PACK(q6_k, DType::kQ6_K);
PACK(iq2_xxs, DType::kIQ2_XXS);

}  // namespace
}  // namespace baton::benchmarks
