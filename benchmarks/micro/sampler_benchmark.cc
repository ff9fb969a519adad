#include <benchmark/benchmark.h>

#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "worker/model/sampler.h"

// One token from the logits of a vocabulary: SmolLM2's (49,152) and that of a 1B Llama (128,256). Random
// logits of a real model's spread (most of the mass on a few dozen tokens).
namespace baton::benchmarks {
namespace {

std::vector<float> logits_like_a_model(size_t vocabulary, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> logits(vocabulary);
  for (float& x : logits) {
    const double u = (rng.next_double() + rng.next_double() + rng.next_double() + rng.next_double()) - 2;
    x = static_cast<float>(4.5 * u);
  }
  for (int i = 0; i < 40; ++i) logits[rng.below(vocabulary)] += static_cast<float>(12 * rng.next_double());
  return logits;
}

// Of a grammar: every `step`-th token may come. 0: there is none.
std::vector<uint32_t> every(size_t step, size_t vocabulary) {
  std::vector<uint32_t> words(step == 0 ? 0 : (vocabulary + 31) / 32);
  for (size_t id = 0; step > 0 && id < vocabulary; id += step) words[id / 32] |= 1u << (id % 32);
  return words;
}

void sample(benchmark::State& state, const SamplingParams& sampling, size_t allowed = 0) {
  const auto vocabulary = static_cast<size_t>(state.range(0));
  std::vector<std::vector<float>> rows;
  for (uint64_t i = 0; i < 4; ++i) rows.push_back(logits_like_a_model(vocabulary, i));
  worker::Sampler sampler(static_cast<int64_t>(vocabulary));
  const StopParams stop;
  const std::vector<uint32_t> mask = every(allowed, vocabulary);
  const std::vector<TokenId> tokens(100, 5);
  TokenOutput out;
  size_t i = 0;
  for (auto _ : state) {
    worker::SamplerInput input{.logits = rows[i++ % 4], .tokens = tokens, .prompt_tokens = 50};
    input.sampling = &sampling;
    input.stop = &stop;
    input.allowed.words = mask;
    BATON_CHECK(sampler.sample(input, out).ok());
    benchmark::DoNotOptimize(out.token);
  }
}
void vocabularies(benchmark::internal::Benchmark* b) {
  b->ArgName("vocabulary")->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(sample, greedy, SamplingParams{.temperature = 0})->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, greedy_logprobs_5, SamplingParams{.temperature = 0, .logprobs = 5})
    ->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, temperature_1, SamplingParams{.temperature = 1})->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, top_p_0_9, SamplingParams{.temperature = 0.7f, .top_p = 0.9f})->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, top_k_50, SamplingParams{.temperature = 0.7f, .top_k = 50})->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, top_k_50_top_p_0_9, SamplingParams{.temperature = 0.7f, .top_p = 0.9f, .top_k = 50})
    ->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, greedy_few_allowed, SamplingParams{.temperature = 0}, 5000)->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, greedy_half_allowed, SamplingParams{.temperature = 0}, 2)->Apply(vocabularies);
BENCHMARK_CAPTURE(sample, top_k_50_few_allowed, SamplingParams{.temperature = 0.7f, .top_k = 50}, 5000)
    ->Apply(vocabularies);

}  // namespace
}  // namespace baton::benchmarks

BENCHMARK_MAIN();
