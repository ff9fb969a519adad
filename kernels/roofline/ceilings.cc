#include "kernels/roofline/ceilings.h"

#include <algorithm>
#include <cstring>
#include <ctime>

#include "kernels/cpu/instruction_set.h"

namespace baton::kernels::roofline {
namespace {

constexpr size_t kReadBytes = size_t{256} << 20;
constexpr int64_t kRounds = 4'000'000;  // of any loop: about 8 ms

PeakLoops best_loops() {
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512dq")) return kAvx512PeakLoops;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return kScalarPeakLoops;
  PeakLoops loops = kAvx2PeakLoops;
  if (__builtin_cpu_supports("avxvnni")) loops.int8 = kAvxVnniInt8;
  return loops;
}

}  // namespace

Ceilings::Ceilings(int threads, const std::vector<int>& cpus, Timing timing)
    : timing_(timing),
      loops_(best_loops()),
      pool_(threads, cpus),
      buffer_(kReadBytes + kReadUnit),
      sums_(threads * 8) {
  if (__builtin_cpu_supports("avx512bf16")) bf16_ = kAvx512BFloat16;
  if (cpu::tiles_granted()) tiles_ = kAmxInt8;
  pool_.pin_caller();
  std::memset(buffer_.data(), 1, kReadBytes);  // pages of zeros may all be one page
}

double Ceilings::now() const {
  timespec t{};
  clock_gettime(timing_ == Timing::kWall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double Ceilings::read() {
  pool_.run([](int) {});  // everybody awake
  const double start = now();
  pool_.run([this](int thread) {
    const cpu::Share units = cpu::share_of(kReadBytes / kReadUnit, thread, pool_.size());
    sums_[thread * 8] += static_cast<double>(
        loops_.read(buffer_.data() + units.begin * kReadUnit, (units.end - units.begin) * kReadUnit));
  });
  return kReadBytes / (now() - start);
}

double Ceilings::rate(const PeakLoop& loop) {
  if (loop.run == nullptr) return 0;
  pool_.run([](int) {});
  const double start = now();
  pool_.run([&](int thread) { sums_[thread * 8] += loop.run(kRounds); });
  return static_cast<double>(kRounds * loop.operations_per_round * pool_.size()) / (now() - start);
}

double Ceilings::peak(Kind kind) {
  switch (kind) {
    case Kind::kInt8:
      return rate(loops_.int8);
    case Kind::kInt8Tiles:
      return rate(tiles_);
    case Kind::kBFloat16:
      return rate(bf16_);
    case Kind::kF32:
      return rate(loops_.f32);
  }
  return 0;
}

Peaks Ceilings::measure(int tries) {
  Peaks best;
  std::vector<double> reads;
  for (int i = 0; i < tries; ++i) {
    best.int8 = std::max(best.int8, peak(Kind::kInt8));
    best.int8_tiles = std::max(best.int8_tiles, peak(Kind::kInt8Tiles));
    best.bf16 = std::max(best.bf16, peak(Kind::kBFloat16));
    best.f32 = std::max(best.f32, peak(Kind::kF32));
    reads.push_back(read());
  }
  std::ranges::nth_element(reads, reads.begin() + tries / 2);
  best.read = reads[tries / 2];
  return best;
}

}  // namespace baton::kernels::roofline
