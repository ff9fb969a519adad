#include "tests/golden/model_under_test.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "base/check.h"
#include "base/rng.h"

namespace baton::testing {
namespace {

constexpr std::align_val_t kPoolAlignment{4096};

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
  ASSIGN_OR_RETURN(t->file_, worker::ModelFile::open(path));
  kernels::BackendOptions options;
  options.device = setup.device;
  options.threads = setup.threads;
  options.isa_limit = setup.isa_limit;
  options.numerics = setup.numerics;
  ASSIGN_OR_RETURN(t->backend_, kernels::make_backend(options));
  worker::ModelSpec spec = t->file_->spec();
  if (setup.change_spec) setup.change_spec(spec);
  const int64_t positions = std::min(spec.context_tokens, setup.blocks * setup.block_tokens);
  ASSIGN_OR_RETURN(t->model_,
                   worker::LlamaModel::create(spec, t->file_->weights(), *t->backend_,
                                              {.max_rows = setup.max_rows, .max_positions = positions}));
  const auto geometry = worker::kv_geometry(spec, setup.block_tokens, setup.kv, setup.blocks);
  const size_t bytes = geometry.pool_bytes();
  t->pool_.reset(static_cast<std::byte*>(::operator new(bytes, kPoolAlignment)));
  // Undefined content must not matter: what is not written would show as NaN.
  std::fill_n(t->pool_.get(), bytes, std::byte{0xff});
  RETURN_IF_ERROR(t->backend_->attach_kv({t->pool_.get(), bytes}, geometry));
  t->runner_ = std::make_unique<worker::ModelRunner>(*t->model_, t->clock_);
  t->free_all_blocks();
  return t;
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
