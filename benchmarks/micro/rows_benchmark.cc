#include <benchmark/benchmark.h>

#include <vector>

#include "benchmarks/micro/machine.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/instruction_set.h"

// What a step does besides matrices: quantisation, norms, activations, attention of one chunk.
namespace baton::benchmarks {
namespace {

using namespace kernels;
using namespace kernels::cpu;

AlignedBuffer some_floats(int64_t count) {
  AlignedBuffer buffer(count * sizeof(float));
  for (int64_t i = 0; i < count; ++i) buffer.as<float>()[i] = static_cast<float>(i % 2003) * 1e-3f - 1.0f;
  return buffer;
}

void quantise(benchmark::State& state) {
  const Kernels* kernels = *choose_kernels("");
  const int64_t cols = state.range(0);
  const AlignedBuffer x = some_floats(cols);
  AlignedBuffer codes(cols), groups(cols);
  for (auto _ : state) {
    kernels->quantise(x.as<float>(), cols, codes.as<int8_t>(), groups.as<ActivationGroup>());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * cols);
}
BENCHMARK(quantise)->Arg(576)->Arg(1536)->Arg(2048)->Arg(8192);

void rms_norm(benchmark::State& state) {
  const Kernels* kernels = *choose_kernels("");
  const int64_t cols = state.range(0);
  const AlignedBuffer x = some_floats(cols), weight = some_floats(cols);
  AlignedBuffer out(cols * 4);
  for (auto _ : state) {
    kernels->rms_norm({x.as<float>(), weight.as<float>(), cols, 1e-5f, out.as<float>()});
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * cols);
}
BENCHMARK(rms_norm)->Arg(576);

void silu_multiply(benchmark::State& state) {
  const Kernels* kernels = *choose_kernels("");
  const AlignedBuffer gate = some_floats(1536), up = some_floats(1536);
  AlignedBuffer out(1536 * 4);
  for (auto _ : state) {
    kernels->silu_multiply(gate.as<float>(), up.as<float>(), 1536, out.as<float>());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * 1536);
}
BENCHMARK(silu_multiply);

// One full chunk of 256 positions for `rows` rows of 3 query heads of 64. class: 0 bf16 KV by float32, 1 by
// bf16 dots, 2 int8 KV. of_float: share of the float32 multiply-add peak.
void attend_chunk(benchmark::State& state) {
  const Kernels* kernels = *choose_kernels("");
  const auto rows = static_cast<int>(state.range(0));
  const bool brain = state.range(1) == 1;
  const KvType type = state.range(1) == 2 ? KvType::kInt8 : KvType::kBF16;
  constexpr int kDim = 64, kShare = 3;
  const int64_t tile = 16 * kv_vector_bytes(type, kDim);
  AlignedBuffer kv(2 * 16 * tile);
  for (size_t i = 0; i < kv.size() / 2; ++i) kv.as<uint16_t>()[i] = static_cast<uint16_t>(0x3c00 + i % 1021);
  std::vector<const std::byte*> keys, values;
  for (int t = 0; t < 16; ++t) {
    keys.push_back(kv.data() + t * tile);
    values.push_back(kv.data() + (16 + t) * tile);
  }
  const AlignedBuffer q = some_floats(rows * kShare * kDim);
  AlignedBuffer out(rows * kShare * kDim * 4), scratch(attend_scratch_floats(rows * kShare, kDim) * 4);
  std::vector<int32_t> first(rows, 0), last(rows, contract::kChunk - 1);
  std::vector<ChunkState> states(rows * kShare);
  AttendTask task = {{type, keys.data(), values.data(), nullptr}, 0, rows, kShare, kDim, 0.125f};
  task.q = q.as<float>();
  task.q_stride = kShare * kDim;
  task.first = first.data();
  task.last = last.data();
  task.states = states.data();
  task.out = out.as<float>();
  task.out_stride = kDim;
  task.scratch = scratch.as<float>();
  task.brain_dots = brain;
  for (auto _ : state) {
    (brain ? kernels->attend_brain : kernels->attend)(task);
    benchmark::ClobberMemory();
  }
  const auto products = static_cast<double>(rows * kShare * contract::kChunk * kDim * 2);
  state.counters["of_float"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * 2 * products / ceilings().f32, benchmark::Counter::kIsRate);
}
BENCHMARK(attend_chunk)->ArgNames({"rows", "class"})->ArgsProduct({{1, 8}, {0, 1, 2}});

}  // namespace
}  // namespace baton::benchmarks
