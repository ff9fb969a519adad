#include "benchmarks/micro/ceilings.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "benchmarks/micro/peak_loops.h"
#include "kernels/cpu/aligned_buffer.h"

namespace baton::benchmarks {
namespace {

constexpr size_t kReadBytes = size_t{256} << 20;
constexpr int64_t kRounds = 1'000'000;
constexpr int kTries = 7;

template <class Work>
double best_seconds(const Work& work) {
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(work());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

Ceilings measure() {
  const bool wide = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512dq");
  const PeakLoops& loops = wide ? kAvx512PeakLoops : kAvx2PeakLoops;
  kernels::cpu::AlignedBuffer buffer(kReadBytes + 4096);
  std::fill_n(buffer.as<uint8_t>(), kReadBytes, uint8_t{1});
  Ceilings c;
  c.read_bytes_per_second = kReadBytes / best_seconds([&] { return loops.read(buffer.data(), kReadBytes); });
  c.int8_ops_per_second = static_cast<double>(kRounds * loops.int8_ops_per_round) /
                          best_seconds([&] { return loops.int8_dots(kRounds); });
  c.float_ops_per_second = static_cast<double>(kRounds * loops.float_ops_per_round) /
                           best_seconds([&] { return loops.float_fmas(kRounds); });
  return c;
}

}  // namespace

const Ceilings& ceilings() {
  static const Ceilings measured = measure();
  return measured;
}

}  // namespace baton::benchmarks
