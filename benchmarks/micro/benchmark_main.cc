#include <benchmark/benchmark.h>

#include <string>

#include "benchmarks/micro/machine.h"

// Prints the machine's ceilings before the rows they belong to.
int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (const int threads : {1, 2}) {
    const auto& c = baton::benchmarks::ceilings(threads);
    const std::string with = std::to_string(threads) + (threads == 1 ? " thread" : " threads");
    benchmark::AddCustomContext("read GB/s, " + with, std::to_string(c.read * 1e-9));
    benchmark::AddCustomContext("int8 Gop/s, " + with, std::to_string(c.int8 * 1e-9));
    benchmark::AddCustomContext("int8 tiles Gop/s, " + with, std::to_string(c.int8_tiles * 1e-9));
    benchmark::AddCustomContext("bf16 Gop/s, " + with, std::to_string(c.bf16 * 1e-9));
    benchmark::AddCustomContext("f32 Gop/s, " + with, std::to_string(c.f32 * 1e-9));
  }
  benchmark::RunSpecifiedBenchmarks();
}
