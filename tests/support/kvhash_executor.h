#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "worker/kv_cache/block_pool.h"
#include "worker/schedule/step_plan.h"

namespace baton::support {

// The KV memory of a KvHashExecutor: one number per (layer, block, slot), a function of tenant salt, position
// and token history. Plain memory: anybody who may write it can, at any time, as with the real pool.
class KvHashPool {
 public:
  KvHashPool(int layers, int64_t blocks, int32_t block_tokens);
  uint64_t& at(int layer, BlockId block, int32_t slot);
  uint64_t at(int layer, BlockId block, int32_t slot) const;
  // Makes the content of the block wrong: who still reads it, or expects it kept, is found out.
  void poison(BlockId block);
  bool poisoned(int layer, BlockId block, int32_t slot) const;
  void poison_free(const worker::BlockPool& pool);  // every FREE block
  // All layers of a block, as another memory keeps it.
  std::vector<uint64_t> content(BlockId block) const;
  void set_content(BlockId block, const std::vector<uint64_t>& values);

  int layers() const { return layers_; }
  int32_t block_tokens() const { return block_tokens_; }

 private:
  size_t index(int layer, BlockId block, int32_t slot) const;
  const int layers_;
  const int64_t blocks_;
  const int32_t block_tokens_;
  std::vector<uint64_t> values_;
};

struct KvHashOptions {
  int32_t vocab_size = 1000;
  // Virtual time of a step: base + tokens x ... + rows x ...
  double base_seconds = 0.001;
  double seconds_per_prefill_token = 50e-6;
  double seconds_per_attended = 5e-9;
  double seconds_per_decode_row = 200e-6;
  // This request cannot be sampled from its generated token `sick_at` on; the others of the step can.
  RequestId sick;
  int32_t sick_at = 0;
  // Of a pipeline: the last so many layers are computed when the plan is finished, with the block tables it
  // was started with, as later stages do. on_layer hears of the others only.
  int late_layers = 0;
  // A device with a queue, which feeds tokens back: a plan is computed when it is finished, or, one in three,
  // at once with all before it; with the tables and tokens it was started with, and those that the plan
  // before drew. on_layer hears of all layers when the plan is finished.
  bool feeds_back = false;
};

// A fake model: the next token is a hash of ALL the KV it can see, read through the block table. One stale,
// missing or foreign slot changes the token; besides, every slot is compared with what the sequence's tokens
// say, and a difference is an error that names it. Honours min_tokens and seed. Prompt logprobs are a
// function of the same hashes. Deterministic; step durations are virtual.
class KvHashExecutor final : public worker::StepExecutor {
 public:
  KvHashExecutor(KvHashPool& pool, const KvHashOptions& options);
  absl::Status start(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                     worker::StepResult& result) override;
  absl::Status finish(const worker::StepPlan& plan, const worker::LayerListener& on_layer,
                      worker::StepResult& result) override;
  uint64_t rows_run() const { return rows_run_; }
  uint64_t rows_fed() const { return rows_fed_; }

 private:
  // A planned row group under way: its block table, its tokens, and by row the hashes of all KV up to it,
  // over the layers so far. Nothing of the sequence is read later but its request.
  struct Fold {
    worker::PlannedRows rows;
    std::vector<BlockId> blocks;
    std::vector<TokenId> tokens;
    std::vector<uint64_t> at;
    TokenOutput drawn;
    bool sick = false;
  };
  struct Started {
    std::vector<Fold> folds;
    int layers_run = 0;
  };
  absl::Status run_layer(int layer, Fold& fold);
  absl::Status run_to(int layer, Started& plan);
  absl::Status run_all();
  void feed(Started& plan) const;
  void draw(Fold& fold) const;
  std::optional<worker::SampledRow> sample(const Fold& fold) const;

  KvHashPool& pool_;
  const KvHashOptions options_;
  std::deque<Started> started_;  // by plan
  std::vector<Fold> before_;     // of the plan that was computed last
  uint64_t rows_run_ = 0, rows_fed_ = 0;
};

// The tokens an undisturbed run of `request` gives, computed without any pool.
std::vector<TokenId> kvhash_reference(const GenerateRequest& request, int layers,
                                      const KvHashOptions& options);
// The logprobs of the prompt tokens at positions 1 .. prompt - 1.
std::vector<TokenOutput> kvhash_prompt_reference(const GenerateRequest& request, int layers);

}  // namespace baton::support
