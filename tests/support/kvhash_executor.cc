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

absl::Status KvHashExecutor::run_layer(int layer, Fold& fold) {
  const GenerateRequest& request = fold.rows.sequence->request;
  const int32_t size = pool_.block_tokens(), first = fold.rows.first_position;
  uint64_t expected = first_value(request, layer);
  uint64_t value = expected;
  uint64_t sum = 0;
  for (int32_t p = 0; p < first + fold.rows.row_count; ++p) {
    const auto i = static_cast<size_t>(p);
    BATON_CHECK(i < fold.tokens.size() && i / size < fold.blocks.size(), "a row without a token or block");
    expected = next_value(expected, fold.tokens[i], p);
    uint64_t& slot = pool_.at(layer, fold.blocks[i / size], p % size);
    if (p >= first) slot = next_value(value, fold.tokens[i], p);
    value = slot;
    if (value != expected)
      return absl::InternalError(cat("foreign or stale KV: ", to_string(request.id), " position ", p,
                                     " layer ", layer, " ", to_string(fold.blocks[i / size])));
    sum = mix(sum, value);
    if (p >= first) {
      uint64_t& out = fold.at[static_cast<size_t>(p - first)];
      out = mix(out, sum);
    }
  }
  return absl::OkStatus();
}

absl::Status KvHashExecutor::run_to(int layer, Started& plan) {
  if (plan.layers_run == 0) feed(plan);
  for (; plan.layers_run < layer; ++plan.layers_run)
    for (Fold& fold : plan.folds) RETURN_IF_ERROR(run_layer(plan.layers_run, fold));
  if (plan.layers_run < pool_.layers()) return absl::OkStatus();
  for (Fold& fold : plan.folds) draw(fold);
  before_ = plan.folds;
  return absl::OkStatus();
}

absl::Status KvHashExecutor::run_all() {
  for (Started& plan : started_)
    if (plan.layers_run < pool_.layers()) RETURN_IF_ERROR(run_to(pool_.layers(), plan));
  return absl::OkStatus();
}

// What the plan before drew for a row that failed is nobody's token; something has to be computed with.
void KvHashExecutor::feed(Started& plan) const {
  for (Fold& fold : plan.folds)
    if (fold.rows.fed_by >= 0) {
      const Fold& from = before_.at(static_cast<size_t>(fold.rows.fed_by));
      BATON_CHECK(from.rows.sequence == fold.rows.sequence && from.rows.sample, "fed by a stranger");
      fold.tokens.push_back(from.sick ? 0 : from.drawn.token);
    }
}

void KvHashExecutor::draw(Fold& fold) const {
  if (!fold.rows.sample) return;
  const worker::Sequence& sequence = *fold.rows.sequence;
  const int32_t generated = fold.rows.first_position + fold.rows.row_count - sequence.answer_begin();
  fold.drawn = choose(sequence.request, fold.at.back(), generated, options_.vocab_size);
  fold.sick = sequence.request.id == options_.sick && generated >= options_.sick_at;
}

absl::Status KvHashExecutor::start(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                                   worker::StepResult& result) {
  Started& started = started_.emplace_back();
  worker::StepLoad load;
  for (const worker::PlannedRows& rows : plan.rows) {
    Fold& fold = started.folds.emplace_back();
    const worker::Sequence& sequence = *rows.sequence;
    const bool decodes = sequence.state == worker::SequenceState::kDecoding || rows.fed_by >= 0;
    fold.rows = rows;
    fold.blocks = sequence.blocks;
    const int32_t known = rows.first_position + rows.row_count - (rows.fed_by >= 0);
    BATON_CHECK(static_cast<size_t>(known) <= sequence.tokens.size(), "a row without a token");
    fold.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + known);
    fold.at.assign(static_cast<size_t>(rows.row_count), 0);
    rows_run_ += static_cast<uint64_t>(rows.row_count);
    rows_fed_ += rows.fed_by >= 0;
    load.decode_rows += decodes ? rows.row_count : 0;
    load.prefill_tokens += decodes ? 0 : rows.row_count;
    load.attended += decodes ? 0 : worker::attended_pairs(rows.first_position, rows.row_count);
  }
  result.id = plan.id;
  result.duration = from_seconds(
      options_.base_seconds + options_.seconds_per_prefill_token * load.prefill_tokens +
      options_.seconds_per_attended * load.attended + options_.seconds_per_decode_row * load.decode_rows);
  if (options_.feeds_back) return plan.id.value() % 3 == 0 ? run_all() : absl::OkStatus();
  for (int layer = 0; layer < pool_.layers() - options_.late_layers; ++layer) {
    RETURN_IF_ERROR(run_to(layer + 1, started));
    if (on_layer) on_layer(layer);
  }
  return absl::OkStatus();
}

absl::Status KvHashExecutor::finish(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                                    worker::StepResult& result) {
  BATON_CHECK(!started_.empty() && started_.front().folds.size() == plan.rows.size());
  Started& started = started_.front();
  if (started.layers_run < pool_.layers()) RETURN_IF_ERROR(run_to(pool_.layers(), started));
  for (int layer = 0; options_.feeds_back && on_layer && layer < pool_.layers(); ++layer) on_layer(layer);
  result.sampled.clear();
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    if (auto row = sample(started.folds[i])) {
      row->planned = i;
      result.sampled.push_back(std::move(*row));
    }
  }
  started_.pop_front();
  return absl::OkStatus();
}

std::optional<worker::SampledRow> KvHashExecutor::sample(const Fold& fold) const {
  const worker::PlannedRows& rows = fold.rows;
  const std::vector<TokenId>& prompt = rows.sequence->request.prompt;
  worker::SampledRow row;
  for (int32_t r = 0; rows.prompt_logits && r < rows.row_count; ++r) {
    const auto next = static_cast<size_t>(rows.first_position + r + 1);
    if (next < prompt.size())
      row.prompt_tokens.push_back(prompt_output(prompt[next], fold.at[static_cast<size_t>(r)]));
  }
  if (rows.sample && !fold.sick) row.token = fold.drawn;
  if (rows.sample && fold.sick) {
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
