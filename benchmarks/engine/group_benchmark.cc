// One model over several ranks, which are threads here: what each shape does with the same work, and how long
// a rank waits for the others; then two stages with 1 to 4 micro-batches under way, and cut in several ways:
// by what they cost a prefill worker, one for both and a decode worker, and as named.
//   group_benchmark MODEL.gguf [prompt=2048] [streams=32] [tokens=32] [layers of the first stage ...]
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "base/cat.h"
#include "base/check.h"
#include "tests/golden/model_under_test.h"
#include "worker/model/model_shard.h"
#include "worker/model/stage_trial.h"

namespace baton::benchmarks {
namespace {

using testing::EngineSetup;
using testing::ModelUnderTest;
using worker::ParallelShape;
using worker::RankTime;
using worker::Sequence;

constexpr int32_t kRows = 512;

struct Work {
  int32_t prompt = 2048;
  int streams = 32;
  int32_t tokens = 32;
  std::vector<int32_t> cuts;  // layers of the first of two stages
};

struct Figures {
  double tokens_per_second = 0;
  double idle = 0;  // of the ranks' time: waiting for others, copying to and from them, between steps
};

std::unique_ptr<ModelUnderTest> open(const char* path, const ParallelShape& shape, int threads,
                                     const Work& work, int micro_batches = 4) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.threads = threads;
  setup.shape = shape;
  setup.max_rows = kRows;
  setup.micro_batches = micro_batches;
  setup.full_logits = false;
  setup.blocks = std::max<int64_t>(work.prompt, 64L * work.streams) / setup.block_tokens + 8;
  return ModelUnderTest::open(path, setup).value();
}

// Runs `step` until it says that nothing is left, then ends the group.
template <class Step>
Figures measure(std::unique_ptr<ModelUnderTest> group, int64_t tokens, const Step& step) {
  const SteadyClock clock;
  const Instant begun = clock.now();
  while (step(*group)) {
  }
  const double seconds = to_seconds(clock.now() - begun);
  double busy = 0;
  const std::vector<RankTime> times = group->stop();
  for (const RankTime& time : times) busy += to_seconds(time.steps - time.links);
  return {static_cast<double>(tokens) / seconds, 1 - busy / seconds / static_cast<double>(times.size())};
}

// Plans under way, each with its own part of the work; finished in the order in which they were started.
class Flow {
 public:
  Flow(ModelUnderTest& engine, size_t plans) : engine_(engine), flights_(plans) {}
  bool full() const { return running_ == flights_.size(); }
  bool empty() const { return running_ == 0; }
  void start(const std::vector<worker::PlannedRows>& rows) {
    Flight& flight = flights_[(oldest_ + running_++) % flights_.size()];
    flight.plan = {.id = StepId(++steps_), .rows = rows};
    for (const worker::PlannedRows& r : rows) flight.plan.total_rows += r.row_count;
    BATON_CHECK(engine_.runner().start(flight.plan, nullptr, flight.result).ok());
  }
  void finish() {
    Flight& flight = flights_[oldest_];
    oldest_ = (oldest_ + 1) % flights_.size();
    --running_;
    BATON_CHECK(engine_.runner().finish(flight.plan, nullptr, flight.result).ok());
    for (const worker::SampledRow& row : flight.result.sampled)
      const_cast<Sequence*>(flight.plan.rows[row.planned].sequence)
          ->tokens.push_back(row.token.value().token);
  }

 private:
  struct Flight {
    worker::StepPlan plan;
    worker::StepResult result;
  };
  ModelUnderTest& engine_;
  std::vector<Flight> flights_;
  size_t oldest_ = 0, running_ = 0;
  uint64_t steps_ = 0;
};

// A long prompt in steps of kRows, of which only the last one yields a token.
Figures prefill(std::unique_ptr<ModelUnderTest> group, size_t plans, const Work& work) {
  std::vector<TokenId> prompt(work.prompt);
  for (int32_t i = 0; i < work.prompt; ++i) prompt[i] = 100 + i * 7 % 400;
  Sequence sequence = group->make_sequence(prompt);
  Flow flow(*group, plans);
  int32_t done = 0;
  return measure(std::move(group), work.prompt, [&](ModelUnderTest&) {
    if (done == work.prompt || flow.full()) {
      flow.finish();
    } else {
      const int32_t rows = std::min(kRows, work.prompt - done);
      flow.start({{&sequence, done, rows, done + rows == work.prompt, false}});
      done += rows;
    }
    return done < work.prompt || !flow.empty();
  });
}

// As many sets as plans; each set's next step is started when its last one is finished.
Figures decode(std::unique_ptr<ModelUnderTest> group, size_t plans, const Work& work) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < work.streams; ++i) sequences.push_back(group->make_sequence({100 + i}, 64));
  Flow flow(*group, plans);
  const auto streams = sequences.size();
  size_t started = 0;
  const size_t steps = plans * static_cast<size_t>(work.tokens);
  return measure(std::move(group), int64_t{work.streams} * work.tokens, [&](ModelUnderTest&) {
    if (started == steps || flow.full()) {
      flow.finish();
    } else {
      std::vector<worker::PlannedRows> rows;
      const size_t set = started % plans;
      for (size_t i = streams * set / plans; i < streams * (set + 1) / plans; ++i)
        rows.push_back({&sequences[i], static_cast<int32_t>(started / plans), 1, true, false});
      flow.start(rows);
      ++started;
    }
    return started < steps || !flow.empty();
  });
}

void print(const char* what, int number, const Figures& p, const Figures& d) {
  std::printf("%-28s %2d %14.0f %5.0f%% %14.0f %5.0f%%\n", what, number, p.tokens_per_second, 100 * p.idle,
              d.tokens_per_second, 100 * d.idle);
}

// The stages of a worker whose rows are decoded to this share: every rank measures on a thread of its own.
std::vector<int32_t> measured_stages(const worker::ModelFile& file, double decoded) {
  const ParallelShape two{.tensor = 1, .pipeline = 2};
  const SteadyClock clock;
  std::vector<worker::StageCost> costs(2);
  const auto measure_one = [&](int rank) {
    const auto backend = kernels::make_backend({.device = "cpu", .threads = 1}).value();
    const worker::StageTimes times =
        worker::measure_stage(
            worker::shard_of(file.spec(), file.weights(), two, rank).value(), *backend,
            {.max_rows = kRows, .max_positions = file.spec().context_tokens, .clock = clock})
            .value();
    costs[rank] = worker::cost_of_row(times.decode, times.chunk, decoded);
  };
  {
    std::jthread second([&] { measure_one(1); });
    measure_one(0);
  }
  return worker::split_layers(costs, file.spec().layers);
}

void run_cuts(const char* path, const worker::ModelFile& file, const Work& work) {
  const auto print_cut = [&](const std::string& what, const std::vector<int32_t>& layers) {
    const ParallelShape two{.tensor = 1, .pipeline = 2, .stage_layers = layers};
    print(cat("1 x 2, 1; ", worker::stages_text(layers), what).c_str(), 2,
          prefill(open(path, two, 1, work), 2, work), decode(open(path, two, 1, work), 2, work));
  };
  print_cut(", prefill", measured_stages(file, worker::kDecodedByPrefill));
  print_cut(", any", measured_stages(file, worker::kDecodedByAny));
  print_cut(", decode", measured_stages(file, worker::kDecodedByDecode));
  for (const int32_t first : work.cuts) print_cut("", {first, file.spec().layers - first});
}

// The bubble of two stages: prompts in steps of so many micro-batches with two plans under way, streams in so
// many decode sets.
void run_stages(const char* path, const worker::ModelFile& file, const Work& work) {
  const ParallelShape two{
      .tensor = 1, .pipeline = 2, .stage_layers = measured_stages(file, worker::kDecodedByAny)};
  for (int count = 1; count <= 4; ++count)
    print("1 x 2, 1; micro-batches", count, prefill(open(path, two, 1, work, count), 2, work),
          decode(open(path, two, 1, work), static_cast<size_t>(count), work));
}

void run(const char* path, const Work& work) {
  const auto file = worker::ModelFile::open(path).value();
  const std::vector<int> sizes = worker::tensor_sizes(worker::split_model(file->spec(), file->weights()));
  std::vector<std::pair<ParallelShape, int>> shapes = {{{1, 1}, 1}, {{1, 1}, 2}, {{1, 2}, 1}};
  for (const int size : sizes)
    if (size > 1 && size <= 4) shapes.push_back({{size, 1}, 1});
  std::printf("%-31s %14s %6s %14s %6s\n", "tensor x pipeline, threads", "prefill tok/s", "idle",
              "decode tok/s", "idle");
  for (const auto& [shape, threads] : shapes) {
    const auto plans = static_cast<size_t>(shape.pipeline);
    const std::string name = cat(shape.tensor, " x ", shape.pipeline, ", ", threads, "; plans in flight");
    print(name.c_str(), shape.pipeline, prefill(open(path, shape, threads, work), plans, work),
          decode(open(path, shape, threads, work), plans, work));
  }
  run_stages(path, *file, work);
  run_cuts(path, *file, work);
}

}  // namespace
}  // namespace baton::benchmarks

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(
        stderr,
        "group_benchmark MODEL.gguf [prompt=2048] [streams=32] [tokens=32] [layers of stage 0 ...]\n");
    return 2;
  }
  baton::benchmarks::Work work;
  if (argc > 2) work.prompt = std::atoi(argv[2]);
  if (argc > 3) work.streams = std::atoi(argv[3]);
  if (argc > 4) work.tokens = std::atoi(argv[4]);
  for (int i = 5; i < argc; ++i) work.cuts.push_back(std::atoi(argv[i]));
  baton::benchmarks::run(argv[1], work);
}
