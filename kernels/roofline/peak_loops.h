#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::kernels::roofline {

// Loops at the limit of one instruction set, all operands in registers. Each returns something that depends
// on all its work. Multiply and add count apart.
struct PeakLoop {
  float (*run)(int64_t rounds) = nullptr;  // nullptr: this instruction set has no such instruction
  int64_t operations_per_round = 0;
};

inline constexpr size_t kReadUnit = 4096;

struct PeakLoops {
  const char* name;
  uint64_t (*read)(const std::byte* data, size_t bytes);  // 64-byte aligned; bytes: whole kReadUnits
  PeakLoop int8;
  PeakLoop f32;
};

extern const PeakLoops kScalarPeakLoops;
extern const PeakLoops kAvx2PeakLoops;
extern const PeakLoops kAvx512PeakLoops;
extern const PeakLoop kAvxVnniInt8;     // vpdpbusd of 256 bits
extern const PeakLoop kAvx512BFloat16;  // vdpbf16ps
extern const PeakLoop kAmxInt8;         // tdpbssd; wants cpu::tiles_granted()

}  // namespace baton::kernels::roofline
