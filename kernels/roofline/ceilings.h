#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/roofline/peak_loops.h"

namespace baton::kernels::roofline {

// What the machine does at most with a number of threads, in operations or bytes a second.
struct Peaks {
  double int8 = 0;  // multiply and add counted apart; the widest exact dot of vectors there is
  // Products of matrix tiles: 0: this processor has none. What can be done with the sums of 32 products,
  // which a linear layer scales one by one, bounds it far below (kernels/cpu/amx/tile_loops.h).
  double int8_tiles = 0;
  double bf16 = 0;  // 0: this processor has no bf16 dot
  double f32 = 0;   // fused multiply-add, counted as two
  double read = 0;  // one contiguous run per thread, from memory
};

// The ceilings of the machine, measured beside the work that is to be held against them: bandwidth floats on
// virtual machines, so read() is called between the pieces of a measurement, and so is peak(). Owns a thread
// pool (pinned as the backend's is) and 256 MiB of huge pages. Thread: one. Example, two threads of Zen 5:
// int8 2.0e12, bf16 9.9e11, f32 4.9e11 operations/s, read 4.5e10 bytes/s.
class Ceilings {
 public:
  enum class Kind { kInt8, kInt8Tiles, kBFloat16, kF32 };
  // CPU time of the calling thread leaves out what other processes take away: for work that is timed so, too.
  enum class Timing { kWall, kThreadCpu };

  Ceilings(int threads, const std::vector<int>& cpus, Timing timing = Timing::kWall);

  // One pass over the whole buffer (about 6 ms).
  double read();
  // One run of a few milliseconds; 0 for what the processor does not have.
  double peak(Kind kind);
  // Best of `tries` of each peak, median of as many reads.
  Peaks measure(int tries);

  int threads() const { return pool_.size(); }
  const char* instruction_set() const { return loops_.name; }

 private:
  double rate(const PeakLoop& loop);
  double now() const;  // seconds

  const Timing timing_;
  PeakLoops loops_;
  PeakLoop bf16_;
  PeakLoop tiles_;
  cpu::ThreadPool pool_;
  cpu::AlignedBuffer buffer_;
  std::vector<double> sums_;  // [threads * 8]: keeps the work alive
};

}  // namespace baton::kernels::roofline
