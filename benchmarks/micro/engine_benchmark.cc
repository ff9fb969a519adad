#include <benchmark/benchmark.h>

#include "base/check.h"
#include "worker/engine/engine_loop.h"
#include "worker/kv_cache/no_exchange.h"

// The host's part of a step: EngineLoop with an executor that takes no time. Time per iteration is what one
// turn (drain, plan, publish, account) costs beside the arithmetic; plan_us is planning alone. And what a
// prompt costs that the prefix cache holds. With `host` every complete block is copied to host memory, by
// copies that take no time either: what the tier adds to a turn.
namespace baton::benchmarks {
namespace {

using namespace worker;

constexpr int kBlock = 16;
constexpr int kPrompt = 64;

// Yields the position as token, at once.
class Instantaneous final : public StepExecutor {
 public:
  absl::Status start(const StepPlan& plan, const LayerListener& on_layer, StepResult& result) override {
    result.sampled.clear();
    on_layer(0);
    for (size_t i = 0; i < plan.rows.size(); ++i) {
      const PlannedRows& rows = plan.rows[i];
      if (!rows.sample) continue;
      SampledRow& row = result.sampled.emplace_back();
      row.planned = i;
      row.token.emplace().token = (rows.first_position + rows.row_count) % 1000;
    }
    result.duration = std::chrono::milliseconds(2);
    return absl::OkStatus();
  }
};

// Copies are done when they are ordered; the engine hears of it in its next turn.
class CopiedAtOnce final : public HostCopies {
 public:
  explicit CopiedAtOnce(EngineMailbox& mailbox) : mailbox_(mailbox) {}
  void copy(HostCopy copy) override { BATON_CHECK(mailbox_.post(HostCopied{.id = copy.id, .error = ""})); }

 private:
  EngineMailbox& mailbox_;
};

EngineOptions engine_options(int64_t blocks, int64_t host_blocks, HostCopies& copies) {
  EngineOptions options{.blocks = blocks, .block_tokens = kBlock};
  options.host = {.slots = host_blocks, .copies = &copies};
  options.scheduler.context_tokens = 1 << 24;
  options.scheduler.token_budget = 1 << 16;
  options.scheduler.max_running = 512;
  options.scheduler.itl_objective = std::chrono::hours(1);
  options.scheduler.step_objective = std::chrono::hours(1);
  return options;
}

class Turns {
 public:
  explicit Turns(int64_t blocks, int64_t host_blocks = 0)
      : copies_(mailbox_),
        engine_(engine_options(blocks, host_blocks, copies_), exchange_),
        loop_({engine_, executor_, mailbox_, clock_}, [](std::vector<WorkerMessage>&) {}) {
    post(SetHashKey{{1, 2}});
  }

  void submit(int prompt, int max_tokens) { submit(prompt, max_tokens, static_cast<int>(requests_) + 1); }
  void submit(int prompt, int max_tokens, int variant) {
    GenerateRequest request{.id = RequestId(++requests_)};
    request.prompt.push_back(variant);
    for (int i = 1; i < prompt; ++i) request.prompt.push_back((variant * 7 + i) % 900);
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    post(CoordinatorMessage(Submit{.request = request}));
  }
  // Leaves `blocks` blocks in the prefix cache that nobody holds.
  void fill_cache(int64_t blocks) {
    while (engine_.cache().blocks_cached() < blocks) {
      submit(4096, 1);
      while (turn()) continue;
    }
  }
  bool turn() { return loop_.do_work(clock_.now()).value(); }
  const Engine& engine() const { return engine_; }
  double planning_seconds() const { return loop_.status().planning_seconds; }

 private:
  void post(EngineCommand command) { BATON_CHECK(mailbox_.post(std::move(command))); }

  SteadyClock clock_;
  NoExchange exchange_;
  Instantaneous executor_;
  EngineMailbox mailbox_{1000};
  CopiedAtOnce copies_;
  Engine engine_;
  EngineLoop loop_;
  uint64_t requests_ = 0;
};

// args: sequences that decode, cached blocks beside them, blocks of host memory
void decode_turn(benchmark::State& state) {
  Turns turns(250'000, state.range(2));
  turns.fill_cache(state.range(1));
  for (int i = 0; i < state.range(0); ++i) turns.submit(kPrompt, 4096);
  for (int i = 0; i < 64; ++i) turns.turn();
  const double planned = turns.planning_seconds();
  for (auto _ : state) turns.turn();
  state.counters["plan_us"] =
      1e6 * (turns.planning_seconds() - planned) / static_cast<double>(state.iterations());
  state.counters["sequences"] = turns.engine().load().running;
  state.counters["cached"] = static_cast<double>(turns.engine().cache().blocks_cached());
}
BENCHMARK(decode_turn)
    ->ArgNames({"sequences", "cached", "host"})
    ->ArgsProduct({{1, 8, 64, 256}, {0, 100'000}, {0, 500'000}})
    ->Iterations(2000)
    ->Unit(benchmark::kMicrosecond);

// args: tokens of the prompt, cached blocks. Submit to Released: hashes, look-up, holding and letting go.
void cached_prompt(benchmark::State& state) {
  const auto prompt = static_cast<int>(state.range(0));
  Turns turns(250'000);
  turns.fill_cache(state.range(1));
  turns.submit(prompt, 1, 1'000'000);
  while (turns.turn()) continue;
  for (auto _ : state) {
    turns.submit(prompt, 1, 1'000'000);
    while (turns.turn()) continue;
  }
  state.counters["per_block"] = benchmark::Counter(static_cast<double>(state.iterations()) * prompt / kBlock,
                                                   benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(cached_prompt)
    ->ArgNames({"tokens", "cached"})
    ->ArgsProduct({{256, 4096}, {1'000, 100'000}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace baton::benchmarks

BENCHMARK_MAIN();
