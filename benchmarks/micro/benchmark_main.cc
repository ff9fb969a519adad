#include <benchmark/benchmark.h>

#include "benchmarks/micro/ceilings.h"

// Prints the machine's ceilings before the rows they belong to.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const auto& c = baton::benchmarks::ceilings();
  benchmark::AddCustomContext("read GB/s, 1 thread", std::to_string(c.read_bytes_per_second * 1e-9));
  benchmark::AddCustomContext("int8 Gop/s, 1 thread", std::to_string(c.int8_ops_per_second * 1e-9));
  benchmark::AddCustomContext("float GFLOP/s, 1 thread", std::to_string(c.float_ops_per_second * 1e-9));
  benchmark::RunSpecifiedBenchmarks();
}
