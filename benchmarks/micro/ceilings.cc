#include "benchmarks/micro/ceilings.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <ctime>

#include "benchmarks/micro/peak_loops.h"
#include "kernels/cpu/aligned_buffer.h"

namespace baton::benchmarks {
namespace {

constexpr size_t kReadBytes = size_t{256} << 20;
constexpr int64_t kRounds = 1'000'000;
constexpr int kTries = 7;

// CPU time: what other processes take away is not the machine's limit.
double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class Work>
double best_seconds(const Work& work) {
  double best = 1e9;
  for (int i = 0; i < kTries; ++i) {
    const double start = thread_seconds();
    benchmark::DoNotOptimize(work());
    best = std::min(best, thread_seconds() - start);
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
