#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/stream_socket.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/model/sampler.h"
#include "worker/model/sharded_draw.h"

// A step's tokens from logits whose columns two ranks have (threads here, one host thread each): all columns
// to rank 0, which draws, against ranks that draw together. Time an iteration: rank 0's, until it has all
// tokens.
namespace baton::worker {
namespace {

constexpr int64_t kVocab = 49152;
constexpr int kRanks = 2;

using Ranks = std::vector<std::unique_ptr<Communicator>>;

Ranks socket_ranks() {
  Ranks ranks(kRanks);
  std::string address;
  {
    const OwnedFd listener = listen_at("127.0.0.1:0").value();
    address = cat("127.0.0.1:", local_port(listener.get()));
  }
  std::vector<std::jthread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      auto group = form_group({.group = "benchmark",
                               .incarnation = Incarnation(r == 0 ? 5 : 0),
                               .rank = r,
                               .size = kRanks,
                               .rendezvous = address,
                               .lane = GroupLane::kSocket,
                               .deadline = SteadyClock().now() + std::chrono::seconds(10)});
      ranks[r] = std::move(group.value().communicator);
    });
  threads.clear();
  return ranks;
}

// Logits of a real model's spread, as in sampler_benchmark.
std::vector<float> some_logits(int64_t rows) {
  Rng rng(1);
  std::vector<float> logits(static_cast<size_t>(rows * kVocab));
  for (float& x : logits)
    x = static_cast<float>(
        4.5 * (rng.next_double() + rng.next_double() + rng.next_double() + rng.next_double() - 2));
  for (int64_t r = 0; r < rows; ++r)
    for (int i = 0; i < 40; ++i)
      logits[static_cast<size_t>(r * kVocab) + rng.below(kVocab)] +=
          static_cast<float>(12 * rng.next_double());
  return logits;
}

struct Step {
  SamplingParams sampling;
  int64_t rows = 0;
  std::vector<float> logits;  // [rows][kVocab]
  BatchRows batch;

  Step(const SamplingParams& s, int64_t count) : sampling(s), rows(count), logits(some_logits(count)) {
    for (int32_t r = 0; r < count; ++r) {
      batch.logit_rows.push_back(r);
      batch.keep.push_back(BatchRows::kDrawn);
      batch.draws.push_back({.uniform = (r + 0.5) / static_cast<double>(count),
                             .temperature = s.temperature,
                             .top_p = s.top_p,
                             .wanted = 1});
    }
  }
};

// One rank, with its columns of a step.
class Rank {
 public:
  Rank(Communicator& world, const Step& step)
      : world_(world), step_(step), columns_(vocab_part(kVocab, kRanks, world.rank())), full_(step.logits) {
    for (int64_t r = 0; r < step.rows; ++r) {
      const auto row = step.logits.begin() + r * kVocab;
      own_.insert(own_.end(), row + columns_.begin, row + columns_.end);
    }
    maxima_.resize(static_cast<size_t>(step.rows * kernels::logit_blocks(columns_.size())));
    look().look_over(step.rows, columns_.size());
  }
  void draw_together() {
    BATON_CHECK(draw_.draw(step_.batch, look()).ok());
    std::vector<kernels::DrawnToken> tokens(static_cast<size_t>(step_.rows));
    for (size_t r = 0; r < tokens.size(); ++r) tokens[r] = draw_.drawn(r);
    if (world_.rank() == 0) {
      links_.hear(1, std::as_writable_bytes(std::span(tokens)));
    } else {
      links_.report(std::as_bytes(std::span(tokens)));
    }
    BATON_CHECK(links_.status().ok());
  }
  void draw_at_rank_zero() {
    if (world_.rank() != 0) return links_.report(std::as_bytes(std::span(own_)));
    take(0, own_);
    heard_.resize(own_.size());
    links_.hear(1, std::as_writable_bytes(std::span(heard_)));
    BATON_CHECK(links_.status().ok());
    take(1, heard_);
    const std::vector<TokenId> tokens(100, 5);
    const StopParams stop;
    TokenOutput out;
    for (int64_t r = 0; r < step_.rows; ++r) {
      const auto logits = std::span<const float>(full_).subspan(static_cast<size_t>(r * kVocab), kVocab);
      BATON_CHECK(sampler_.sample({logits, tokens, 50, &step_.sampling, &stop}, out).ok());
      benchmark::DoNotOptimize(out.token);
    }
  }
  absl::Status meet() { return world_.barrier(clock_.now() + std::chrono::seconds(10)); }

 private:
  kernels::LogitRows look() { return {own_.data(), maxima_.data()}; }
  void take(int place, const std::vector<float>& columns) {
    const Range part = vocab_part(kVocab, kRanks, place);
    const auto width = static_cast<size_t>(part.size());
    for (int64_t r = 0; r < step_.rows; ++r)
      std::memcpy(full_.data() + r * kVocab + part.begin, columns.data() + static_cast<size_t>(r) * width,
                  width * sizeof(float));
  }

  Communicator& world_;
  const Step& step_;
  const Range columns_;
  SteadyClock clock_;
  RankLinks links_{{world_, world_, clock_, std::chrono::seconds(10)}, ParallelShape{kRanks, 1}};
  std::unique_ptr<kernels::Backend> backend_ = kernels::make_backend({.device = "cpu", .threads = 1}).value();
  ShardedDraw draw_{*backend_, links_, kVocab};
  Sampler sampler_{kVocab};
  std::vector<float> own_, maxima_, heard_, full_;
};

void group_draw(benchmark::State& state, Ranks (*make)(), void (Rank::*draw)(),
                const SamplingParams& sampling) {
  const Step step(sampling, state.range(0));
  Ranks ranks = make();
  Rank zero(*ranks[0], step), one(*ranks[1], step);
  std::jthread follower([&](const std::stop_token& stop) {
    while (one.meet().ok() && !stop.stop_requested()) (one.*draw)();
  });
  const SteadyClock clock;
  double fastest = 1e9;
  for (auto _ : state) {
    BATON_CHECK(zero.meet().ok());
    const Instant begun = clock.now();
    (zero.*draw)();
    const double seconds = to_seconds(clock.now() - begun);
    fastest = std::min(fastest, seconds);
    state.SetIterationTime(seconds);
  }
  state.counters["fastest_us"] = fastest * 1e6;  // both ranks had a core
  follower.request_stop();
  BATON_CHECK(zero.meet().ok());
}

Ranks shared_memory() { return thread_ranks(kRanks).value(); }
const SamplingParams kPlain{.temperature = 1}, kTopP{.temperature = 0.7f, .top_p = 0.9f};

void rows(benchmark::internal::Benchmark* b) {
  b->ArgName("rows")->Arg(1)->Arg(32)->UseManualTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(group_draw, shm_columns_temperature_1, shared_memory, &Rank::draw_at_rank_zero, kPlain)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, shm_together_temperature_1, shared_memory, &Rank::draw_together, kPlain)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, shm_columns_top_p_0_9, shared_memory, &Rank::draw_at_rank_zero, kTopP)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, shm_together_top_p_0_9, shared_memory, &Rank::draw_together, kTopP)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, socket_columns_temperature_1, socket_ranks, &Rank::draw_at_rank_zero, kPlain)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, socket_together_temperature_1, socket_ranks, &Rank::draw_together, kPlain)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, socket_columns_top_p_0_9, socket_ranks, &Rank::draw_at_rank_zero, kTopP)
    ->Apply(rows);
BENCHMARK_CAPTURE(group_draw, socket_together_top_p_0_9, socket_ranks, &Rank::draw_together, kTopP)
    ->Apply(rows);

}  // namespace
}  // namespace baton::worker

BENCHMARK_MAIN();
