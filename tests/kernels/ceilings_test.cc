#include "kernels/roofline/ceilings.h"

#include <gtest/gtest.h>

#include "kernels/cpu/instruction_set.h"

namespace baton::kernels::roofline {
namespace {

TEST(Ceilings, AreOfThisWorld) {
  Ceilings ceilings(2, {});
  const Peaks peaks = ceilings.measure(1);
  for (const double rate : {peaks.int8, peaks.f32, peaks.read}) {
    EXPECT_GT(rate, 1e6);
    EXPECT_LT(rate, 1e15);
  }
  EXPECT_EQ(peaks.int8_tiles > 0, cpu::tiles_granted());
  EXPECT_EQ(peaks.bf16 > 0, static_cast<bool>(__builtin_cpu_supports("avx512bf16")));
  EXPECT_EQ(ceilings.threads(), 2);
}

TEST(Ceilings, LoopsDependOnTheirWork) {
  EXPECT_NE(kScalarPeakLoops.f32.run(10), kScalarPeakLoops.f32.run(1000));
  EXPECT_NE(kScalarPeakLoops.int8.run(11), kScalarPeakLoops.int8.run(1000));
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_NE(kAvx2PeakLoops.int8.run(10), kAvx2PeakLoops.int8.run(1000));
    EXPECT_NE(kAvx2PeakLoops.f32.run(10), kAvx2PeakLoops.f32.run(1000));
  }
  if (__builtin_cpu_supports("avxvnni")) {
    EXPECT_NE(kAvxVnniInt8.run(10), kAvxVnniInt8.run(1000));
  }
  if (__builtin_cpu_supports("avx512vnni")) {
    EXPECT_NE(kAvx512PeakLoops.int8.run(10), kAvx512PeakLoops.int8.run(1000));
    EXPECT_NE(kAvx512PeakLoops.f32.run(10), kAvx512PeakLoops.f32.run(1000));
  }
  if (cpu::tiles_granted()) {
    EXPECT_NE(kAmxInt8.run(10), kAmxInt8.run(1000));
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    EXPECT_NE(kAvx512BFloat16.run(10), kAvx512BFloat16.run(1000));
  }
}

// The read loop sees every byte it is asked to read and none behind.
TEST(Ceilings, ReadingSeesEveryLine) {
  cpu::AlignedBuffer buffer(3 * kReadUnit);
  std::vector<const PeakLoops*> all = {&kScalarPeakLoops};
  if (__builtin_cpu_supports("avx2")) all.push_back(&kAvx2PeakLoops);
  if (__builtin_cpu_supports("avx512dq")) all.push_back(&kAvx512PeakLoops);
  for (const PeakLoops* loops : all) {
    EXPECT_EQ(loops->read(buffer.data(), 2 * kReadUnit), 0u);
    for (const size_t line : {size_t{0}, size_t{64}, 2 * kReadUnit - 64}) {
      buffer.data()[line] = std::byte{1};
      EXPECT_EQ(loops->read(buffer.data(), 2 * kReadUnit), 1u) << loops->name << " line at " << line;
      buffer.data()[line] = std::byte{0};
    }
    buffer.data()[2 * kReadUnit] = std::byte{1};
    EXPECT_EQ(loops->read(buffer.data(), 2 * kReadUnit), 0u) << loops->name;
    buffer.data()[2 * kReadUnit] = std::byte{0};
  }
}

}  // namespace
}  // namespace baton::kernels::roofline
