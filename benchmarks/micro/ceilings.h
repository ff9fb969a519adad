#pragma once

// What the machine can do at most, measured beside the kernels so that every figure can be a ratio.
// Every loop runs on the calling thread; best of several short runs.
namespace baton::benchmarks {

struct Ceilings {
  double read_bytes_per_second = 0;  // one contiguous pass over 256 MiB
  double int8_ops_per_second = 0;    // multiply and add counted apart; the widest dot the machine has
  double float_ops_per_second = 0;   // fused multiply-add, counted as two
};

// Measured once per process, at the first call (about half a second).
const Ceilings& ceilings();

}  // namespace baton::benchmarks
