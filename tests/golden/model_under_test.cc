#include "tests/golden/model_under_test.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "base/check.h"
#include "base/rng.h"
#include "kernels/device.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/model/output_shard.h"

namespace baton::testing {
namespace {

constexpr std::align_val_t kPoolAlignment{4096};
constexpr auto kPatience = std::chrono::seconds(60);

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string shared_model(const std::string& relative) {
  std::string root = environment("BATON_SHARED");
  if (root.empty()) root = environment("BATON_SOURCE_DIR") + "/../shared";
  const std::string path = root + "/models/" + relative;
  return std::filesystem::exists(path) ? path : "";
}

std::string smollm2_path() {
  const std::string path = environment("BATON_SMOLLM2");
  return !path.empty() && std::filesystem::exists(path) ? path : "";
}

bool slow_tests() { return environment("BATON_SLOW") == "1"; }

void ModelUnderTest::FreePool::operator()(std::byte* p) const { ::operator delete(p, kPoolAlignment); }

absl::StatusOr<std::unique_ptr<ModelUnderTest>> ModelUnderTest::open(const std::string& path,
                                                                     const EngineSetup& setup) {
  std::unique_ptr<ModelUnderTest> t(new ModelUnderTest());
  t->setup_ = setup;
  ASSIGN_OR_RETURN(t->file_, worker::ModelFile::open(path, setup.fp8_matrices));
  RETURN_IF_ERROR(t->connect());
  for (int rank = 0; rank < setup.shape.ranks(); ++rank) RETURN_IF_ERROR(t->load(rank));
  worker::RankLinks* links = t->ranks_[0]->links.get();
  if (links != nullptr) t->plans_ = std::make_unique<worker::PlanSender>(*links, t->limits(), t->clock_);
  t->runner_ = std::make_unique<worker::ModelRunner>(
      t->model(), t->clock_,
      worker::ModelRunner::Group{links, t->plans_.get(), setup.micro_batches, setup.micro_batch_rows,
                                 setup.full_logits},
      setup.masks);
  for (int rank = 1; rank < setup.shape.ranks(); ++rank)
    t->followers_.emplace_back([engine = t.get(), rank] { engine->follow(rank); });
  t->free_all_blocks();
  return t;
}

ModelUnderTest::~ModelUnderTest() { stop(); }

std::vector<worker::RankTime> ModelUnderTest::stop() {
  if (!followers_.empty()) BATON_CHECK(plans_->stop().ok());
  for (std::thread& follower : followers_) follower.join();
  followers_.clear();
  std::vector<worker::RankTime> times;
  if (runner_ != nullptr) times.push_back(runner_->time());
  for (size_t rank = 1; rank < ranks_.size(); ++rank) times.push_back(ranks_[rank]->time);
  return times;
}

// The communicators of all ranks, and those of each stage where they are not all.
absl::Status ModelUnderTest::connect() {
  const worker::ParallelShape& shape = setup_.shape;
  for (int rank = 0; rank < shape.ranks(); ++rank) ranks_.push_back(std::make_unique<Rank>());
  if (shape.ranks() == 1) return absl::OkStatus();
  ASSIGN_OR_RETURN(auto world, thread_ranks(shape.ranks()));
  for (int rank = 0; rank < shape.ranks(); ++rank) ranks_[rank]->world = std::move(world[rank]);
  for (int stage = 0; stage < shape.pipeline && shape.pipeline > 1; ++stage) {
    ASSIGN_OR_RETURN(auto members, thread_ranks(shape.tensor));
    for (int place = 0; place < shape.tensor; ++place)
      ranks_[stage * shape.tensor + place]->stage = std::move(members[place]);
  }
  if (shape.pipeline > 1) RETURN_IF_ERROR(connect_results());
  for (auto& rank : ranks_) {
    Communicator& tensor = rank->stage != nullptr ? *rank->stage : *rank->world;
    rank->links =
        std::make_unique<worker::RankLinks>(worker::RankLinks::Parts{*rank->world, tensor, clock_, kPatience,
                                                                     rank->results.get(), rank->outbox.get()},
                                            shape);
  }
  return absl::OkStatus();
}

absl::Status ModelUnderTest::connect_results() {
  ASSIGN_OR_RETURN(auto results, thread_ranks(setup_.shape.ranks()));
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = *ranks_[i];
    rank.results = std::move(results[i]);
    if (i + setup_.shape.tensor < ranks_.size()) continue;
    rank.outbox = std::make_unique<worker::ResultOutbox>(*rank.results, clock_, kPatience);
    rank.sender = std::jthread([&rank](const std::stop_token& stop) { rank.outbox->run(stop); });
  }
  return absl::OkStatus();
}

absl::Status ModelUnderTest::load(int index) {
  Rank& rank = *ranks_[index];
  kernels::BackendOptions options;
  options.device = setup_.device;
  options.threads = setup_.threads;
  options.isa_limit = setup_.isa_limit;
  options.numerics = setup_.numerics;
  ASSIGN_OR_RETURN(rank.backend, kernels::make_device_backend(options, setup_.device_options));
  worker::ModelSpec spec = file_->spec();
  if (setup_.change_spec) setup_.change_spec(spec);
  const kernels::DeviceBackend* const device = kernels::device_backend(rank.backend.get());
  const bool outputs = device != nullptr && !device->splits_inputs();
  ASSIGN_OR_RETURN(worker::ModelShard shard,
                   outputs ? worker::shard_by_outputs(spec, file_->weights(), setup_.shape, index)
                           : worker::shard_of(spec, file_->weights(), setup_.shape, index));
  const auto geometry = worker::kv_geometry(shard.spec, setup_.block_tokens, setup_.kv, setup_.blocks);
  worker::LlamaModelOptions model{.max_rows = setup_.max_rows, .max_positions = limits().max_positions};
  model.links = rank.links.get();
  ASSIGN_OR_RETURN(rank.model, worker::LlamaModel::create(std::move(shard), *rank.backend, model));
  const size_t bytes = geometry.pool_bytes();
  std::span<std::byte> pool;
  if (setup_.pool) {
    pool = setup_.pool(index, bytes);
  } else {
    rank.pool.reset(static_cast<std::byte*>(::operator new(bytes, kPoolAlignment)));
    pool = {rank.pool.get(), bytes};
  }
  // Undefined content must not matter: what is not written would show as NaN.
  std::ranges::fill(pool, std::byte{0xff});
  return rank.backend->attach_kv(pool, geometry);
}

worker::PlanLimits ModelUnderTest::limits() const {
  return {.max_rows = setup_.max_rows,
          .max_positions = std::min(file_->spec().context_tokens, setup_.blocks * setup_.block_tokens),
          .block_tokens = setup_.block_tokens,
          .blocks = setup_.blocks,
          .vocab = file_->spec().vocab_size};
}

// A test between two steps says nothing to the followers, for as long as it likes.
void ModelUnderTest::follow(int index) {
  Rank& rank = *ranks_[index];
  worker::PlanReceiver plans(*rank.links, limits());
  worker::RankStep step(*rank.model, rank.links.get(), clock_);
  while (true) {
    const auto head = plans.receive(clock_.now() + std::chrono::minutes(10));
    BATON_CHECK(head.ok(), "a follower heard nothing it understands");
    rank.time = step.time();
    if (head->kind == worker::PlanKind::kStop) return;
    const auto on_layer = [&](int layer) {
      if (setup_.on_layer) setup_.on_layer(index, layer, plans.rows());
    };
    BATON_CHECK(step.run(StepId(head->step), plans.rows(), head->micro_batches, on_layer).ok());
  }
}

void ModelUnderTest::free_all_blocks() {
  free_.clear();
  for (int64_t i = 0; i < setup_.blocks; ++i) free_.push_back(BlockId(static_cast<uint32_t>(i)));
  Rng rng(setup_.block_seed);
  for (size_t i = free_.size(); i > 1; --i) std::swap(free_[i - 1], free_[rng.below(i)]);
}

worker::Sequence ModelUnderTest::make_sequence(std::vector<TokenId> prompt, int64_t capacity) {
  worker::Sequence sequence;
  sequence.id = SequenceId(next_sequence_++);
  sequence.request.sampling.temperature = 0;
  sequence.prompt_tokens = static_cast<int32_t>(prompt.size());
  const int64_t tokens = std::max<int64_t>(capacity, static_cast<int64_t>(prompt.size()));
  sequence.tokens = std::move(prompt);
  for (int64_t i = 0; i < (tokens + setup_.block_tokens - 1) / setup_.block_tokens; ++i) {
    BATON_CHECK(!free_.empty(), "the test's pool is too small");
    sequence.blocks.push_back(free_.back());
    free_.pop_back();
  }
  return sequence;
}

void ModelUnderTest::free_blocks(worker::Sequence& sequence) {
  free_.insert(free_.end(), sequence.blocks.begin(), sequence.blocks.end());
  sequence.blocks.clear();
}

worker::StepResult ModelUnderTest::run(const std::vector<worker::PlannedRows>& rows,
                                       const worker::LayerListener& on_layer) {
  worker::StepPlan plan;
  plan.rows = rows;
  for (const auto& r : rows) plan.total_rows += r.row_count;
  worker::StepResult result;
  const absl::Status status = runner_->run(plan, on_layer, result);
  BATON_CHECK(status.ok(), "a step failed");
  return result;
}

void ModelUnderTest::forward(std::span<const TokenId> tokens, std::span<const int32_t> wanted,
                             const OnLogits& on_logits) {
  worker::Sequence sequence = make_sequence({tokens.begin(), tokens.end()});
  const auto end = static_cast<int32_t>(tokens.size());
  size_t next = 0;
  for (int32_t position = 0; position < end;) {
    const bool want = next < wanted.size() && wanted[next] == position;
    int32_t count = 1;
    if (want) {
      while (next + count < wanted.size() && wanted[next + count] == position + count && count < 64) ++count;
    } else {
      const int32_t stop = next < wanted.size() ? wanted[next] : end;
      count = std::min(stop - position, setup_.max_rows);
    }
    run({{&sequence, position, count, false, want}});
    if (want)
      for (int32_t i = 0; i < count; ++i) on_logits(position + i, runner_->logits(i));
    if (want) next += count;
    position += count;
  }
  free_blocks(sequence);
}

std::vector<TokenId> ModelUnderTest::greedy(std::vector<TokenId> prompt, int count) {
  worker::Sequence sequence = make_sequence(prompt, static_cast<int64_t>(prompt.size()) + count);
  int32_t computed = 0;
  for (int i = 0; i < count; ++i) {
    const auto rows = static_cast<int32_t>(sequence.tokens.size()) - computed;
    const worker::StepResult result = run({{&sequence, computed, rows, true, false}});
    computed += rows;
    sequence.tokens.push_back(result.sampled.at(0).token.value().token);
  }
  free_blocks(sequence);
  return {sequence.tokens.end() - count, sequence.tokens.end()};
}

double log_sum_exp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - max);
  return max + std::log(sum);
}

TokenId argmax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace baton::testing
