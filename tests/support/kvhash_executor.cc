#include "tests/support/kvhash_executor.h"

#include <algorithm>
#include <span>

#include "base/cat.h"
#include "base/check.h"
#include "worker/schedule/step_time.h"

namespace baton::support {
namespace {

constexpr uint64_t kPoison = 0xDEADBEEFDEADBEEFu;

uint64_t mix(uint64_t a, uint64_t b) {
  a = (a ^ b) * 0xBF58476D1CE4E5B9u + 0x9E3779B97F4A7C15u;
  return a ^ (a >> 29);
}

// What stands "before position 0" of a layer: differs per tenant.
uint64_t first_value(const GenerateRequest& request, int layer) {
  uint64_t value = mix(0x5EED, static_cast<uint64_t>(layer));
  for (char c : request.tenant_salt) value = mix(value, static_cast<unsigned char>(c));
  return value;
}

uint64_t next_value(uint64_t previous, TokenId token, int32_t position) {
  return mix(mix(previous, static_cast<uint64_t>(token)), static_cast<uint64_t>(position));
}

bool stops(const GenerateRequest& request, TokenId token) {
  return std::ranges::count(request.stop.end_token_ids, token) > 0 ||
         std::ranges::count(request.stop.stop_token_ids, token) > 0;
}

TokenOutput choose(const GenerateRequest& request, uint64_t fold, int32_t generated, int32_t vocab_size) {
  if (request.sampling.temperature > 0) fold = mix(fold, request.sampling.seed);
  auto token = static_cast<TokenId>(mix(fold, 1) % static_cast<uint64_t>(vocab_size));
  while (generated < request.stop.min_tokens && stops(request, token)) token = (token + 1) % vocab_size;
  return {.token = token, .logprob = -static_cast<float>(fold % 4096) / 512};
}

TokenOutput prompt_output(TokenId token, uint64_t fold) {
  return {.token = token, .logprob = -static_cast<float>(mix(fold, token) % 4096) / 512};
}

// The fold of all layers at every position of `tokens`, without a pool.
std::vector<uint64_t> reference_folds(const GenerateRequest& request, std::span<const TokenId> tokens,
                                      int layers) {
  std::vector<uint64_t> folds(tokens.size());
  for (int layer = 0; layer < layers; ++layer) {
    uint64_t value = first_value(request, layer);
    uint64_t fold = 0;
    for (size_t p = 0; p < tokens.size(); ++p) {
      value = next_value(value, tokens[p], static_cast<int32_t>(p));
      fold = mix(fold, value);
      folds[p] = mix(folds[p], fold);
    }
  }
  return folds;
}

}  // namespace

KvHashPool::KvHashPool(int layers, int64_t blocks, int32_t block_tokens)
    : layers_(layers),
      blocks_(blocks),
      block_tokens_(block_tokens),
      values_(static_cast<size_t>(layers) * blocks * block_tokens, kPoison) {}

size_t KvHashPool::index(int layer, BlockId block, int32_t slot) const {
  BATON_CHECK(layer < layers_ && int64_t{block.value()} < blocks_ && slot >= 0 && slot < block_tokens_);
  return (static_cast<size_t>(layer) * blocks_ + block.value()) * block_tokens_ + slot;
}

uint64_t& KvHashPool::at(int layer, BlockId block, int32_t slot) {
  return values_[index(layer, block, slot)];
}
uint64_t KvHashPool::at(int layer, BlockId block, int32_t slot) const {
  return values_[index(layer, block, slot)];
}

bool KvHashPool::poisoned(int layer, BlockId block, int32_t slot) const {
  return at(layer, block, slot) == kPoison;
}

void KvHashPool::poison(BlockId block) {
  for (int layer = 0; layer < layers_; ++layer)
    for (int32_t slot = 0; slot < block_tokens_; ++slot) at(layer, block, slot) = kPoison;
}

std::vector<uint64_t> KvHashPool::content(BlockId block) const {
  std::vector<uint64_t> values;
  for (int layer = 0; layer < layers_; ++layer)
    for (int32_t slot = 0; slot < block_tokens_; ++slot) values.push_back(at(layer, block, slot));
  return values;
}

void KvHashPool::set_content(BlockId block, const std::vector<uint64_t>& values) {
  size_t i = 0;
  for (int layer = 0; layer < layers_; ++layer)
    for (int32_t slot = 0; slot < block_tokens_; ++slot) at(layer, block, slot) = values.at(i++);
}

void KvHashPool::poison_free(const worker::BlockPool& pool) {
  for (int64_t i = 0; i < blocks_; ++i) {
    const BlockId block(static_cast<uint32_t>(i));
    if (pool.state(block) == worker::BlockState::kFree) poison(block);
  }
}

KvHashExecutor::KvHashExecutor(KvHashPool& pool, const KvHashOptions& options)
    : pool_(pool), options_(options) {}

absl::Status KvHashExecutor::run_layer(int layer, const worker::PlannedRows& rows, Fold& fold) {
  const worker::Sequence& sequence = *rows.sequence;
  const int32_t size = pool_.block_tokens();
  uint64_t expected = first_value(sequence.request, layer);
  uint64_t value = expected;
  uint64_t sum = 0;
  for (int32_t p = 0; p < rows.first_position + rows.row_count; ++p) {
    const auto i = static_cast<size_t>(p);
    BATON_CHECK(i < sequence.tokens.size() && i / size < fold.blocks.size(),
                "a row without a token or block");
    expected = next_value(expected, sequence.tokens[i], p);
    uint64_t& slot = pool_.at(layer, fold.blocks[i / size], p % size);
    if (p >= rows.first_position) slot = next_value(value, sequence.tokens[i], p);
    value = slot;
    if (value != expected)
      return absl::InternalError(cat("foreign or stale KV: ", to_string(sequence.request.id), " position ", p,
                                     " layer ", layer, " ", to_string(fold.blocks[i / size])));
    sum = mix(sum, value);
    if (p >= rows.first_position) {
      uint64_t& out = fold.at[static_cast<size_t>(p - rows.first_position)];
      out = mix(out, sum);
    }
  }
  return absl::OkStatus();
}

absl::Status KvHashExecutor::start(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                                   worker::StepResult& result) {
  std::vector<Fold>& folds = started_.emplace_back(plan.rows.size());
  worker::StepLoad load;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const worker::PlannedRows& rows = plan.rows[i];
    folds[i].blocks = rows.sequence->blocks;
    folds[i].at.assign(static_cast<size_t>(rows.row_count), 0);
    rows_run_ += static_cast<uint64_t>(rows.row_count);
    const bool decodes = rows.sequence->state == worker::SequenceState::kDecoding;
    load.decode_rows += decodes ? rows.row_count : 0;
    load.prefill_tokens += decodes ? 0 : rows.row_count;
    load.attended += decodes ? 0 : worker::attended_pairs(rows.first_position, rows.row_count);
  }
  for (int layer = 0; layer < pool_.layers() - options_.late_layers; ++layer) {
    for (size_t i = 0; i < plan.rows.size(); ++i) RETURN_IF_ERROR(run_layer(layer, plan.rows[i], folds[i]));
    if (on_layer) on_layer(layer);
  }
  result.id = plan.id;
  result.duration = from_seconds(
      options_.base_seconds + options_.seconds_per_prefill_token * load.prefill_tokens +
      options_.seconds_per_attended * load.attended + options_.seconds_per_decode_row * load.decode_rows);
  return absl::OkStatus();
}

absl::Status KvHashExecutor::finish(const worker::StepPlan& plan, worker::StepResult& result) {
  BATON_CHECK(!started_.empty() && started_.front().size() == plan.rows.size());
  std::vector<Fold> folds = std::move(started_.front());
  started_.pop_front();
  for (int layer = pool_.layers() - options_.late_layers; layer < pool_.layers(); ++layer)
    for (size_t i = 0; i < plan.rows.size(); ++i) RETURN_IF_ERROR(run_layer(layer, plan.rows[i], folds[i]));
  result.sampled.clear();
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    if (auto row = sample(plan.rows[i], folds[i])) {
      row->planned = i;
      result.sampled.push_back(std::move(*row));
    }
  }
  return absl::OkStatus();
}

std::optional<worker::SampledRow> KvHashExecutor::sample(const worker::PlannedRows& rows,
                                                         const Fold& fold) const {
  const worker::Sequence& sequence = *rows.sequence;
  worker::SampledRow row;
  for (int32_t r = 0; rows.prompt_logits && r < rows.row_count; ++r) {
    const auto next = static_cast<size_t>(rows.first_position + r + 1);
    if (next < sequence.tokens.size())
      row.prompt_tokens.push_back(prompt_output(sequence.tokens[next], fold.at[static_cast<size_t>(r)]));
  }
  if (rows.sample)
    row.token = choose(sequence.request, fold.at.back(), sequence.generated(), options_.vocab_size);
  if (row.token && sequence.request.id == options_.sick && sequence.generated() >= options_.sick_at) {
    row.token.reset();
    row.error = absl::InternalError("logits are not finite");
    return row;
  }
  if (!row.token && row.prompt_tokens.empty()) return std::nullopt;
  return row;
}

std::vector<TokenId> kvhash_reference(const GenerateRequest& request, int layers,
                                      const KvHashOptions& options) {
  // The same chain, one position at a time.
  std::vector<uint64_t> values;
  std::vector<uint64_t> folds(static_cast<size_t>(layers));
  for (int layer = 0; layer < layers; ++layer) values.push_back(first_value(request, layer));
  const auto feed = [&](TokenId token, int32_t position) {
    uint64_t all = 0;
    for (size_t layer = 0; layer < values.size(); ++layer) {
      values[layer] = next_value(values[layer], token, position);
      folds[layer] = mix(folds[layer], values[layer]);
      all = mix(all, folds[layer]);
    }
    return all;
  };
  uint64_t fold = 0;
  int32_t position = 0;
  for (TokenId token : request.prompt) fold = feed(token, position++);
  std::vector<TokenId> out;
  while (static_cast<int32_t>(out.size()) < request.stop.max_tokens) {
    const auto generated = static_cast<int32_t>(out.size());
    out.push_back(choose(request, fold, generated, options.vocab_size).token);
    if (generated >= request.stop.min_tokens && stops(request, out.back())) break;
    fold = feed(out.back(), position++);
  }
  return out;
}

std::vector<TokenOutput> kvhash_prompt_reference(const GenerateRequest& request, int layers) {
  const std::vector<uint64_t> folds = reference_folds(request, request.prompt, layers);
  std::vector<TokenOutput> out;
  for (size_t p = 1; p < request.prompt.size(); ++p)
    out.push_back(prompt_output(request.prompt[p], folds[p - 1]));
  return out;
}

}  // namespace baton::support
