// One model over several ranks, which are threads here: what each shape does with the same work, and how long
// a rank waits for the others.
//   group_benchmark MODEL.gguf [prompt=2048] [streams=32] [tokens=32]
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "base/check.h"
#include "tests/golden/model_under_test.h"
#include "worker/model/model_shard.h"

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
};

struct Figures {
  double tokens_per_second = 0;
  double idle = 0;  // of the ranks' time: waiting for others, copying to and from them, between steps
};

std::unique_ptr<ModelUnderTest> open(const char* path, const ParallelShape& shape, int threads,
                                     const Work& work) {
  EngineSetup setup;
  setup.device = "cpu";
  setup.kv = kernels::KvType::kBF16;
  setup.threads = threads;
  setup.shape = shape;
  setup.max_rows = kRows;
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

// A long prompt in steps of kRows, of which only the last one yields a token.
Figures prefill(const char* path, const ParallelShape& shape, int threads, const Work& work) {
  auto group = open(path, shape, threads, work);
  std::vector<TokenId> prompt(work.prompt);
  for (int32_t i = 0; i < work.prompt; ++i) prompt[i] = 100 + i * 7 % 400;
  Sequence sequence = group->make_sequence(prompt);
  int32_t done = 0;
  return measure(std::move(group), work.prompt, [&](ModelUnderTest& engine) {
    const int32_t rows = std::min(kRows, work.prompt - done);
    engine.run({{&sequence, done, rows, done + rows == work.prompt, false}});
    done += rows;
    return done < work.prompt;
  });
}

Figures decode(const char* path, const ParallelShape& shape, int threads, const Work& work) {
  auto group = open(path, shape, threads, work);
  std::vector<Sequence> sequences;
  for (int i = 0; i < work.streams; ++i) sequences.push_back(group->make_sequence({100 + i}, 64));
  int32_t position = 0;
  return measure(std::move(group), int64_t{work.streams} * work.tokens, [&](ModelUnderTest& engine) {
    std::vector<worker::PlannedRows> rows;
    for (Sequence& s : sequences) rows.push_back({&s, position, 1, true, false});
    const worker::StepResult result = engine.run(rows);
    for (size_t i = 0; i < sequences.size(); ++i)
      sequences[i].tokens.push_back(result.sampled[i].token.value().token);
    return ++position < work.tokens;
  });
}

void run(const char* path, const Work& work) {
  const auto file = worker::ModelFile::open(path).value();
  const std::vector<int> sizes = worker::tensor_sizes(worker::split_model(file->spec(), file->weights()));
  std::vector<std::pair<ParallelShape, int>> shapes = {{{1, 1}, 1}, {{1, 1}, 2}, {{1, 2}, 1}};
  for (const int size : sizes)
    if (size > 1 && size <= 4) shapes.push_back({{size, 1}, 1});
  std::printf("%-28s %14s %6s %14s %6s\n", "tensor x pipeline, threads", "prefill tok/s", "idle",
              "decode tok/s", "idle");
  for (const auto& [shape, threads] : shapes) {
    const Figures p = prefill(path, shape, threads, work), d = decode(path, shape, threads, work);
    std::printf("%d x %d, %d %20s %14.0f %5.0f%% %14.0f %5.0f%%\n", shape.tensor, shape.pipeline, threads, "",
                p.tokens_per_second, 100 * p.idle, d.tokens_per_second, 100 * d.idle);
  }
}

}  // namespace
}  // namespace baton::benchmarks

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "group_benchmark MODEL.gguf [prompt=2048] [streams=32] [tokens=32]\n");
    return 2;
  }
  baton::benchmarks::Work work;
  if (argc > 2) work.prompt = std::atoi(argv[2]);
  if (argc > 3) work.streams = std::atoi(argv[3]);
  if (argc > 4) work.tokens = std::atoi(argv[4]);
  baton::benchmarks::run(argv[1], work);
}
