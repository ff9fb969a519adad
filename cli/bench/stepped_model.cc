#include "cli/bench/stepped_model.h"

#include <algorithm>
#include <cstring>

#include "base/cat.h"
#include "base/check.h"
#include "base/rng.h"
#include "cli/cluster/memory_plan.h"

namespace baton::cli {
namespace {

constexpr uint64_t kPromptSeed = 1;

int64_t blocks_for(int64_t positions) {
  return (positions + SteppedModel::kBlockTokens - 1) / SteppedModel::kBlockTokens;
}

absl::Status check_memory(const worker::ModelFile& file, const kernels::Backend& backend,
                          const kernels::KvGeometry& kv, int32_t rows) {
  const worker::ModelMemory sizes =
      worker::model_memory(file.spec(), file.weights(), backend, rows, /*logit_rows=*/rows);
  const MemoryPlan plan{.weights = sizes.weights,
                        .kv_blocks = static_cast<uint64_t>(kv.blocks),
                        .kv_block_bytes = kv.piece_bytes() * kv.layers,
                        .activations = sizes.activations,
                        .mapped_file = file.mapped_bytes()};
  const MemoryLimit limit = read_memory_limit();
  if (plan.total() <= limit.bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      cat("not enough memory: ", plan.text(limit), "; take a smaller batch (-b) or depth (-d)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SteppedModel>> SteppedModel::open(const worker::ModelFile& file,
                                                                 const SteppedModelOptions& options) {
  std::unique_ptr<SteppedModel> m(new SteppedModel);
  ASSIGN_OR_RETURN(m->backend_, kernels::make_backend(options.backend));
  m->geometry_ =
      worker::kv_geometry(file.spec(), kBlockTokens, options.kv, blocks_for(options.pool_positions));
  RETURN_IF_ERROR(check_memory(file, *m->backend_, m->geometry_, options.step_rows));
  const worker::LlamaModelOptions model{
      .max_rows = options.step_rows,
      .max_positions = options.max_positions,
      .on_packed = [&file](const kernels::WeightView& matrix) { file.release(matrix); }};
  ASSIGN_OR_RETURN(m->model_, worker::LlamaModel::create(file.spec(), file.weights(), *m->backend_, model));
  ASSIGN_OR_RETURN(m->pool_, transport::SharedPool::create(m->geometry_.pool_bytes(), /*prefault=*/false));
  RETURN_IF_ERROR(m->backend_->attach_kv(m->pool_->bytes(), m->geometry_));
  m->runner_ = std::make_unique<worker::ModelRunner>(*m->model_, m->clock_);
  Rng rng(kPromptSeed);
  for (int64_t i = 0; i < options.max_positions; ++i)
    m->prompt_.push_back(static_cast<TokenId>(rng.below(file.spec().vocab_size)));
  return m;
}

absl::Status SteppedModel::start(int count, int64_t depth, int64_t tokens) {
  const int64_t each = blocks_for(depth + tokens);
  BATON_CHECK(count >= 1 && each * count <= geometry_.blocks && depth + tokens <= std::ssize(prompt_));
  sequences_.resize(count);
  for (int s = 0; s < count; ++s) {
    worker::Sequence& sequence = sequences_[s];
    sequence.id = SequenceId(s + 1);
    sequence.request.sampling.temperature = 0;
    sequence.tokens.reserve(depth + tokens + 1);
    sequence.blocks.clear();
    for (int64_t b = 0; b < each; ++b)
      sequence.blocks.push_back(BlockId(static_cast<uint32_t>(s * each + b)));
  }
  depth_ = depth;
  worker::Sequence& first = sequences_.front();
  first.tokens.assign(prompt_.begin(), prompt_.begin() + depth);
  RETURN_IF_ERROR(compute(first, computed_, depth, /*sample=*/false));
  copy_blocks(depth, each);
  rewind();
  return absl::OkStatus();
}

void SteppedModel::copy_blocks(int64_t positions, size_t blocks_per_sequence) {
  const size_t run = blocks_for(positions) * geometry_.piece_bytes();
  std::byte* pool = pool_->bytes().data();
  for (int layer = 0; layer < geometry_.layers; ++layer)
    for (size_t s = 1; s < sequences_.size(); ++s)
      std::memcpy(pool + geometry_.piece_offset(layer, sequences_[s].blocks[0]),
                  pool + geometry_.piece_offset(layer, BlockId(0)), run);
  BATON_CHECK(run <= blocks_per_sequence * geometry_.piece_bytes());
}

void SteppedModel::rewind() {
  const auto vocabulary = static_cast<size_t>(model_->spec().vocab_size);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    worker::Sequence& sequence = sequences_[s];
    sequence.tokens.assign(prompt_.begin(), prompt_.begin() + depth_);
    sequence.tokens.push_back(static_cast<TokenId>((prompt_[depth_ % std::ssize(prompt_)] + s) % vocabulary));
    sequence.prompt_tokens = static_cast<int32_t>(sequence.tokens.size());
  }
}

absl::Status SteppedModel::compute(worker::Sequence& sequence, int64_t from, int64_t to, bool sample) {
  for (int64_t at = from; at < to;) {
    const int64_t rows = std::min<int64_t>(to - at, model_->max_rows());
    plan_.rows.assign(1, {.sequence = &sequence,
                          .first_position = static_cast<int32_t>(at),
                          .row_count = static_cast<int32_t>(rows),
                          .sample = sample && at + rows == to});
    plan_.total_rows = static_cast<int32_t>(rows);
    plan_.prefill_rows = plan_.total_rows;
    RETURN_IF_ERROR(step());
    at += rows;
    computed_ = std::max(computed_, at);
  }
  return absl::OkStatus();
}

absl::Status SteppedModel::prefill(int64_t tokens) {
  BATON_CHECK(sequences_.size() == 1);
  worker::Sequence& sequence = sequences_.front();
  sequence.tokens.assign(prompt_.begin(), prompt_.begin() + depth_ + tokens);
  sequence.prompt_tokens = static_cast<int32_t>(sequence.tokens.size());
  return compute(sequence, depth_, depth_ + tokens, /*sample=*/true);
}

absl::Status SteppedModel::decode() {
  plan_.rows.clear();
  for (const worker::Sequence& sequence : sequences_)
    plan_.rows.push_back({.sequence = &sequence,
                          .first_position = static_cast<int32_t>(sequence.tokens.size()) - 1,
                          .row_count = 1,
                          .sample = true});
  plan_.total_rows = static_cast<int32_t>(plan_.rows.size());
  plan_.prefill_rows = 0;
  computed_ = std::min(computed_, depth_);  // what is drawn now is no prompt
  RETURN_IF_ERROR(step());
  for (const worker::SampledRow& row : result_.sampled)
    sequences_[row.planned].tokens.push_back(row.token->token);
  return absl::OkStatus();
}

absl::Status SteppedModel::step() {
  plan_.id = StepId(plan_.id.value() + 1);
  RETURN_IF_ERROR(runner_->run(plan_, nullptr, result_));
  compute_ += result_.compute;
  for (const worker::SampledRow& row : result_.sampled) RETURN_IF_ERROR(row.error);
  return absl::OkStatus();
}

}  // namespace baton::cli
