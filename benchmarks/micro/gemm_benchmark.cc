#include <benchmark/benchmark.h>

#include "base/check.h"
#include "benchmarks/micro/machine.h"
#include "benchmarks/micro/synthetic_model.h"
#include "kernels/cpu/cpu_linear.h"
#include "kernels/cpu/instruction_set.h"

// Linear layers of real shapes with all threads, rows already quantised: of_peak = share of the int8 peak
// (quantised weights), of the bf16 dots (bf16 weights, where the processor has them) or of the float peak,
// measured in the same run; of_read = share of the read bandwidth that the weights need.
namespace baton::benchmarks {
namespace {

using namespace kernels;
using namespace kernels::cpu;

struct Layer {
  const char* name;
  int64_t outputs, cols;
};
constexpr Layer kLayers[] = {{"smollm2 qkv", 960, 576},      {"smollm2 o", 576, 576},
                             {"smollm2 gate_up", 3072, 576}, {"smollm2 down", 576, 1536},
                             {"smollm2 head", 49152, 576},   {"1b qkv", 3072, 2048},
                             {"1b gate_up", 16384, 2048},    {"1b down", 2048, 8192}};

struct Gemm {
  ThreadPool pool;
  WeightArena arena;
  std::unique_ptr<CpuLinear> linear;
  const Kernels* kernels = *choose_kernels("");
  AlignedBuffer values, codes, groups, brain, out;
  Activations x;

  Gemm(DType type, const Layer& layer, int64_t rows, int threads) : pool(threads, {}) {
    const std::vector<std::byte> bytes = random_weights(type, layer.outputs, layer.cols);
    const LinearSpec spec{{{type, bytes.data(), layer.outputs, layer.cols}}, {}, 1};
    linear = std::make_unique<CpuLinear>(spec, pool, arena, /*brain_dots=*/true);
    values = AlignedBuffer(rows * layer.cols * 4);
    codes = AlignedBuffer(rows * layer.cols);
    groups = AlignedBuffer(rows * (layer.cols / 32) * sizeof(ActivationGroup));
    brain = AlignedBuffer(rows * brain_stride(layer.cols) * 2);
    out = AlignedBuffer(rows * layer.outputs * 4);
    for (int64_t i = 0; i < rows * layer.cols; ++i)
      values.as<float>()[i] = static_cast<float>(i % 2003) * 1e-3f - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = values.as<float>() + r * layer.cols;
      kernels->quantise(row, layer.cols, codes.as<int8_t>() + r * layer.cols,
                        groups.as<ActivationGroup>() + r * (layer.cols / 32));
      kernels->round_brain(row, layer.cols, brain.as<uint16_t>() + r * brain_stride(layer.cols));
    }
    x = {.rows = rows,
         .cols = layer.cols,
         .values = values.as<float>(),
         .codes = codes.as<int8_t>(),
         .groups = groups.as<ActivationGroup>(),
         .brain = brain.as<uint16_t>()};
  }
  void multiply() {
    pool.run([&](int thread) {
      const Share panels = share_of(linear->panels(), thread, pool.size());
      linear->multiply(*kernels, panels, x, {.out = out.as<float>(), .stride = linear->rows()});
    });
  }
};

double peak_of(DType type, int threads) {
  const auto& c = ceilings(threads);
  if (type == DType::kBF16 && c.bf16 > 0) return c.bf16;
  return type == DType::kBF16 || type == DType::kF16 || type == DType::kF32 ? c.f32 : c.int8;
}

// args: threads, rows, index of the layer
void gemm(benchmark::State& state, DType type) {
  const auto threads = static_cast<int>(state.range(0));
  const int64_t rows = state.range(1);
  const Layer& layer = kLayers[state.range(2)];
  Gemm gemm(type, layer, rows, threads);
  for (auto _ : state) gemm.multiply();
  const auto calls = static_cast<double>(state.iterations());
  const double operations = 2.0 * static_cast<double>(rows * layer.cols * layer.outputs) * calls;
  const double bytes = static_cast<double>(gemm.linear->bytes()) * calls;
  state.SetLabel(layer.name);
  state.counters["of_peak"] =
      benchmark::Counter(operations / peak_of(type, threads), benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(bytes / ceilings(threads).read, benchmark::Counter::kIsRate);
}

template <int kThreads>
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "rows", "layer"})->Unit(benchmark::kMicrosecond);
  if (kThreads > 1) b->UseRealTime();
  for (const int rows : {8, 64, 512})
    for (int layer = 0; layer < static_cast<int>(std::size(kLayers)); ++layer)
      b->Args({kThreads, rows, layer});
}
#define GEMM_OF(name, type)                              \
  BENCHMARK_CAPTURE(gemm, name, type)->Apply(shapes<1>); \
  BENCHMARK_CAPTURE(gemm, name, type)->Apply(shapes<2>)
GEMM_OF(q8_0, DType::kQ8_0);
GEMM_OF(q4_0, DType::kQ4_0);
GEMM_OF(q4_1, DType::kQ4_1);
GEMM_OF(bf16, DType::kBF16);
GEMM_OF(f16, DType::kF16);
GEMM_OF(f32, DType::kF32);

}  // namespace
}  // namespace baton::benchmarks
