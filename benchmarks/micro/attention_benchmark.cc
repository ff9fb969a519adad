#include <benchmark/benchmark.h>

#include <cmath>

#include "base/check.h"
#include "benchmarks/micro/machine.h"
#include "kernels/backend.h"
#include "kernels/cpu/aligned_buffer.h"

// Attention of whole steps by depth, through the backend as a model calls it, layer after layer over a pool
// of its own, so that the KV of a layer comes from memory. Decode: of_read = share of the read bandwidth that
// the KV needs. Prefill: of_f32 = share of the float peak that q.k and p.v need. Shapes: SmolLM2 (9 heads, 3
// of KV) and a 1B model (32, 8), heads of 64, KV in bf16.
namespace baton::benchmarks {
namespace {

using namespace kernels;

constexpr int kHeadDim = 64, kBlockTokens = 16, kLayers = 8;

struct Steps {
  std::unique_ptr<Backend> backend;
  KvGeometry geometry;
  cpu::AlignedBuffer pool, qkv, out;
  std::vector<BlockId> blocks;
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions, logit_rows;
  std::vector<SequenceRows> sequences;

  Steps(int threads, int kv_heads, int heads_each, int count, int rows, int depth,
        Numerics numerics = Numerics::kFloat) {
    backend = *make_backend({.threads = threads, .numerics = numerics});
    const int heads = kv_heads * heads_each;
    RopeSpec rope;
    for (int i = 0; i < kHeadDim / 2; ++i) rope.inv_freq.push_back(std::pow(1e4, -2.0 * i / kHeadDim));
    BATON_CHECK(backend->set_attention({heads, kv_heads, kHeadDim, 0.125f, 0}, rope).ok());
    const int each = (depth + rows + kBlockTokens - 1) / kBlockTokens;
    geometry = {kLayers, kv_heads, kHeadDim, kBlockTokens, KvType::kBF16, int64_t{each} * count};
    pool = cpu::AlignedBuffer(geometry.pool_bytes());
    for (size_t i = 0; i < pool.size() / 2; ++i)
      pool.as<uint16_t>()[i] = static_cast<uint16_t>(0x3c00 + i % 1021);
    BATON_CHECK(backend->attach_kv({pool.data(), pool.size()}, geometry).ok());
    for (int64_t b = 0; b < geometry.blocks; ++b) blocks.emplace_back(static_cast<uint32_t>(b));
    for (int s = 0; s < count; ++s) {
      sequences.push_back({s * rows, rows, depth, std::span(blocks).subspan(s * each, each)});
      for (int i = 0; i < rows; ++i) {
        tokens.push_back(0);
        positions.push_back(depth + i);
      }
    }
    qkv = cpu::AlignedBuffer(size_t{4} * count * rows * (heads + 2 * kv_heads) * kHeadDim);
    for (size_t i = 0; i < qkv.size() / 4; ++i) qkv.as<float>()[i] = static_cast<float>(i % 2003) * 1e-3f - 1;
    out = cpu::AlignedBuffer(size_t{4} * count * rows * heads * kHeadDim);
    backend->begin_step({tokens, positions, sequences, logit_rows});
  }
  void rope_attend(int layer) {
    backend->rope_attention({layer, nullptr, nullptr}, qkv.as<float>(), out.as<float>(), [] {});
  }
  void attend(int layer) { backend->attention(layer, qkv.as<float>(), out.as<float>()); }
};

// args: threads, KV heads, query heads of each, sequences, depth
void decode(benchmark::State& state) {
  const auto arg = [&](int i) { return static_cast<int>(state.range(i)); };
  Steps steps(arg(0), arg(1), arg(2), arg(3), 1, arg(4));
  int layer = 0;
  for (auto _ : state) steps.attend(layer++ % kLayers);
  const double bytes = static_cast<double>(steps.geometry.piece_bytes()) / kBlockTokens *
                       static_cast<double>(state.range(3) * (state.range(4) + 1) * state.iterations());
  state.counters["of_read"] = benchmark::Counter(bytes / ceilings(arg(0)).read, benchmark::Counter::kIsRate);
}

void prefill(benchmark::State& state) {
  const auto arg = [&](int i) { return static_cast<int>(state.range(i)); };
  constexpr int kRows = 512;
  Steps steps(arg(0), arg(1), arg(2), 1, kRows, arg(3));
  int layer = 0;
  for (auto _ : state) steps.attend(layer++ % kLayers);
  const double seen = kRows * (arg(3) + (kRows + 1) / 2.0);  // pairs of a row and a position it sees
  const double operations = 4.0 * seen * kHeadDim * arg(1) * arg(2) * static_cast<double>(state.iterations());
  state.counters["of_f32"] =
      benchmark::Counter(operations / ceilings(arg(0)).f32, benchmark::Counter::kIsRate);
}

// Short contexts in bf16 dots: what is done once per sequence and head weighs most. Rotation and storing
// included.
void short_decode(benchmark::State& state) {
  const auto arg = [&](int i) { return static_cast<int>(state.range(i)); };
  Steps steps(1, 3, 3, arg(0), 1, arg(1), Numerics::kBrainDots);
  int layer = 0;
  for (auto _ : state) steps.rope_attend(layer++ % kLayers);
  state.counters["ns_each"] = benchmark::Counter(1e-9 * 3 * static_cast<double>(arg(0) * state.iterations()),
                                                 benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(short_decode)
    ->ArgNames({"sequences", "depth"})
    ->ArgsProduct({{1, 8, 32}, {0, 15, 32, 64, 128}})
    ->Unit(benchmark::kMicrosecond);

template <int kThreads>
void decode_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "kv_heads", "share", "sequences", "depth"})->Unit(benchmark::kMicrosecond);
  if (kThreads > 1) b->UseRealTime();
  for (const int depth : {128, 512, 2048, 8191}) {
    b->Args({kThreads, 3, 3, 1, depth})->Args({kThreads, 8, 4, 1, depth});
    if (depth <= 2048) b->Args({kThreads, 3, 3, 8, depth});
  }
}
BENCHMARK(decode)->Apply(decode_shapes<1>);
BENCHMARK(decode)->Apply(decode_shapes<2>);

template <int kThreads>
void prefill_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"threads", "kv_heads", "share", "depth"})->Unit(benchmark::kMicrosecond);
  if (kThreads > 1) b->UseRealTime();
  for (const int depth : {0, 512, 2048}) b->Args({kThreads, 3, 3, depth})->Args({kThreads, 8, 4, depth});
}
BENCHMARK(prefill)->Apply(prefill_shapes<1>);
BENCHMARK(prefill)->Apply(prefill_shapes<2>);

}  // namespace
}  // namespace baton::benchmarks
