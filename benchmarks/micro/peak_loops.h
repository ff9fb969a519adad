#pragma once

#include <cstddef>
#include <cstdint>

namespace baton::benchmarks {

// Loops at the limit of one instruction set. Each returns something that depends on all its work.
struct PeakLoops {
  uint64_t (*read)(const std::byte* data, size_t bytes);  // bytes: a multiple of 4096
  int64_t (*int8_dots)(int64_t rounds);                   // int8_ops_per_round operations each
  int64_t int8_ops_per_round;
  float (*float_fmas)(int64_t rounds);
  int64_t float_ops_per_round;
};

extern const PeakLoops kAvx2PeakLoops;
extern const PeakLoops kAvx512PeakLoops;

}  // namespace baton::benchmarks
