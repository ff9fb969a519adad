#include <benchmark/benchmark.h>

#include "benchmarks/micro/machine.h"
#include "benchmarks/micro/synthetic_model.h"

// Whole steps of a model with SmolLM2's shapes and random weights, without scheduler and sampler.
// One thread is timed in CPU time (other load on the machine counts less), two in wall time. Counters: tok/s;
// for decode the share of one thread's read bandwidth (of_read), for prefill the share of the int8 peak of
// all threads (of_int8, GEMM operations only).
namespace baton::benchmarks {
namespace {

SyntheticModel& smollm2(int threads, const Shape& shape = kSmolLm2) {
  static std::unique_ptr<SyntheticModel> model;
  static int made_for = 0;
  static Shape made_as;
  if (made_for != threads || !(made_as == shape)) {
    model.reset();
    model = std::make_unique<SyntheticModel>(shape, threads, 2048);
    made_for = threads;
    made_as = shape;
  }
  return *model;
}

// Microseconds of a step in each operation, summed over the layers.
void count_operations(benchmark::State& state, const SyntheticModel& model,
                      const std::array<double, kOperations>& before) {
  for (int i = 0; i < kOperations; ++i)
    state.counters[std::string(kOperationNames[i])] =
        1e6 * (model.seconds()[i] - before[i]) / static_cast<double>(state.iterations());
}

// args: threads, sequences, context
void decode(benchmark::State& state) {
  SyntheticModel& model = smollm2(static_cast<int>(state.range(0)));
  const auto sequences = static_cast<int>(state.range(1));
  const auto before = model.seconds();
  for (auto _ : state) model.step(sequences, 1, static_cast<int>(state.range(2)));
  count_operations(state, model, before);
  const double tokens = static_cast<double>(state.iterations()) * sequences;
  const auto bytes = static_cast<double>(model.layer_bytes() + model.head_bytes());
  state.counters["tok/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * bytes / ceilings().read, benchmark::Counter::kIsRate);
}
BENCHMARK(decode)
    ->ArgNames({"threads", "sequences", "context"})
    ->Args({1, 1, 32})
    ->Args({1, 1, 1024})
    ->Args({1, 4, 32})
    ->Args({1, 8, 32})
    ->Args({1, 32, 32})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(decode)
    ->ArgNames({"threads", "sequences", "context"})
    ->Args({2, 1, 32})
    ->Args({2, 1, 1024})
    ->Args({2, 8, 32})
    ->Args({2, 8, 512})
    ->Args({2, 32, 32})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// args: threads, rows
void prefill(benchmark::State& state) {
  const auto threads = static_cast<int>(state.range(0)), rows = static_cast<int>(state.range(1));
  SyntheticModel& model = smollm2(threads);
  const auto before = model.seconds();
  for (auto _ : state) model.step(1, rows, 0);
  count_operations(state, model, before);
  const auto steps = static_cast<double>(state.iterations());
  state.counters["tok/s"] = benchmark::Counter(steps * rows, benchmark::Counter::kIsRate);
  state.counters["of_int8"] =
      benchmark::Counter(steps * (model.layer_ops() * rows + model.head_ops()) / (ceilings(threads).int8),
                         benchmark::Counter::kIsRate);
}
BENCHMARK(prefill)
    ->ArgNames({"threads", "rows"})
    ->Args({1, 16})
    ->Args({1, 64})
    ->Args({1, 512})
    ->Args({1, 2048})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(prefill)
    ->ArgNames({"threads", "rows"})
    ->Args({2, 512})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// args: rows, bf16 weights, bf16 dots. One thread.
void prefill_classes(benchmark::State& state) {
  const auto rows = static_cast<int>(state.range(0));
  Shape shape = kSmolLm2;
  if (state.range(1) != 0) shape.layer_type = shape.head_type = DType::kBF16;
  if (state.range(2) != 0) shape.numerics = kernels::Numerics::kBrainDots;
  SyntheticModel& model = smollm2(1, shape);
  const auto before = model.seconds();
  for (auto _ : state) model.step(1, rows, 0);
  count_operations(state, model, before);
  state.counters["tok/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * rows, benchmark::Counter::kIsRate);
}
BENCHMARK(prefill_classes)
    ->ArgNames({"rows", "bf16_weights", "bf16_dots"})
    ->Args({512, 0, 0})
    ->Args({512, 0, 1})
    ->Args({2048, 0, 0})
    ->Args({2048, 0, 1})
    ->Args({512, 1, 0})
    ->Args({512, 1, 1})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace baton::benchmarks
