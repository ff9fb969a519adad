#include <benchmark/benchmark.h>

#include "benchmarks/micro/machine.h"
#include "benchmarks/micro/synthetic_model.h"
#include "kernels/cpu/cpu_linear.h"
#include "kernels/cpu/instruction_set.h"

// One linear layer on one thread, rows already quantised: how near the kernel comes to its ceiling.
// Columns 576 (SmolLM2) or 2048 (a 1B model). 512 outputs stay in the second cache, 98,304 come from memory.
namespace baton::benchmarks {
namespace {

using namespace kernels;
using namespace kernels::cpu;

struct Prepared {
  ThreadPool pool{1, {}};
  WeightArena arena;
  std::unique_ptr<CpuLinear> linear;
  const Kernels* kernels;
  AlignedBuffer values, codes, groups, tiles, opened, out;
  Activations x;

  Prepared(DType type, int64_t outputs, int64_t cols, int64_t rows, const char* isa) {
    const std::vector<std::byte> bytes = random_weights(type, outputs, cols);
    linear = std::make_unique<CpuLinear>(LinearSpec{{{type, bytes.data(), outputs, cols}}, {}, 1}, pool,
                                         arena, /*brain_dots=*/false);
    kernels = *choose_kernels(isa);
    values = AlignedBuffer(rows * cols * 4);
    codes = AlignedBuffer(rows * cols);
    groups = AlignedBuffer(rows * (cols / 32) * sizeof(ActivationGroup));
    out = AlignedBuffer(rows * outputs * 4);
    for (int64_t i = 0; i < rows * cols; ++i)
      values.as<float>()[i] = static_cast<float>(i % 2003) * 1e-3f - 1.0f;
    for (int64_t r = 0; r < rows; ++r)
      kernels->quantise(values.as<float>() + r * cols, cols, codes.as<int8_t>() + r * cols,
                        groups.as<ActivationGroup>() + r * (cols / 32));
    x = {rows, cols, values.as<float>(), codes.as<int8_t>(), groups.as<ActivationGroup>()};
    if (kernels->linear_tiled != nullptr && rows >= kLeastTiledRows) put_in_tiles();
  }
  void put_in_tiles() {
    tiles = AlignedBuffer(row_tiles_bytes(x.rows, x.cols));
    opened = AlignedBuffer(kPanelRows * x.cols);
    x.tiles = row_tiles(tiles.data(), x.rows, x.cols);
    x.opened = opened.data();
    const int64_t row_groups = x.cols / 32;
    for (int64_t r = 0; r < x.rows; ++r)
      put_groups(x.tiles, r, 0, row_groups, x.codes + r * x.cols, x.groups + r * row_groups);
  }
  void multiply() {
    linear->multiply(*kernels, {0, linear->panels()}, x, {.out = out.as<float>(), .stride = linear->rows()});
  }
};

void matrix(benchmark::State& state, DType type, const char* isa) {
  const int64_t rows = state.range(0), cols = state.range(1), outputs = state.range(2);
  Prepared p(type, outputs, cols, rows, isa);
  for (auto _ : state) p.multiply();
  const auto calls = static_cast<double>(state.iterations());
  const bool floats = type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
  const double peak = floats ? ceilings().f32 : ceilings().int8;
  const double ops = 2.0 * static_cast<double>(rows * cols * outputs) * calls;
  const double bytes = static_cast<double>(p.linear->bytes()) * calls;
  state.counters["of_peak"] = benchmark::Counter(ops / peak, benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(bytes / ceilings().read, benchmark::Counter::kIsRate);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "cols", "outputs"});
  for (const int rows : {1, 2, 4, 6, 8, 10, 12, 16, 32, 64, 128, 512})
    for (int outputs : {512, 3072, 98304})
      if (rows < 500 || outputs == 3072) b->Args({rows, 576, outputs});
  b->Args({512, 2048, 3072});
}
BENCHMARK_CAPTURE(matrix, q4_0, DType::kQ4_0, "")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q4_1, DType::kQ4_1, "")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q8_0, DType::kQ8_0, "")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, bf16, DType::kBF16, "")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, f32, DType::kF32, "")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q4_k, DType::kQ4_K, "")
    ->ArgNames({"rows", "cols", "outputs"})
    ->Args({1, 2048, 3072})
    ->Args({512, 2048, 3072});
BENCHMARK_CAPTURE(matrix, q6_k, DType::kQ6_K, "")
    ->ArgNames({"rows", "cols", "outputs"})
    ->Args({1, 2048, 3072})
    ->Args({512, 2048, 3072});
// Without matrix instructions, where the processor has them.
BENCHMARK_CAPTURE(matrix, q4_0_vectors, DType::kQ4_0, "avx512-vnni-bf16")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q4_1_vectors, DType::kQ4_1, "avx512-vnni-bf16")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q8_0_vectors, DType::kQ8_0, "avx512-vnni-bf16")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q4_1_avx2, DType::kQ4_1, "avx2")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q8_0_avx2, DType::kQ8_0, "avx2")->Apply(sizes);
BENCHMARK_CAPTURE(matrix, q4_1_avx2_vnni, DType::kQ4_1, "avx2-vnni")->Apply(sizes);

}  // namespace
}  // namespace baton::benchmarks
