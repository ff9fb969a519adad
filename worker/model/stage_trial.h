#pragma once

#include <functional>

#include "base/clock.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/model_shard.h"
#include "worker/parallel/rank_links.h"
#include "worker/parallel/stage_split.h"

namespace baton::worker {

struct StageTrialOptions {
  // Of the worker: its steps are not tried with more.
  int32_t max_rows = 0;
  int64_t max_positions = 0;
  int block_tokens = 16;
  kernels::KvType kv = kernels::KvType::kBF16;
  const Clock& clock;
  // To the ranks of this stage, as a model of one stage {tensor, 1}; nullptr when tensor is 1.
  RankLinks* links = nullptr;
  std::function<void(const kernels::WeightView&)> on_packed = nullptr;  // as LlamaModelOptions
  // Called between loading and the first step: waits until the other ranks are as far. Their files may be on
  // slower disks; and stages that share a machine are to be measured side by side.
  std::function<absl::Status()> wait_for_others = nullptr;
};

// What steps cost a stage, measured on the rank that will have it.
struct StageTimes {
  StepCost decode;     // 8 rows, each of a sequence of its own with logits, after 256 tokens
  StepCost chunk;      // 32 rows of one prompt after 256 tokens, none with logits
  int32_t layers = 0;  // that were tried
  Duration took{};
};

// Runs a few steps on some layers of `shard`, which need not become this rank's: those of an even split are
// as good as any. With their real formats, the rank's share of them, its threads, and what its stage's ranks
// say to each other; as many as 16 MiB hold, two at least, so that a layer is as cold in the caches as it is
// in a step of a whole stage. The head is taken as far as it fits into 16 MiB and scaled. Whatever else the
// machine does only adds, so of each layer the best time of some steps counts, and of the layers the median.
// The two kinds take turns. SmolLM2 Q4_1, 8 layers, one thread of a Zen 5: 0.1 s of computing, packing
// included.
//
// `backend` is made for this and thrown away: the model it computes afterwards would be the trial's. Every
// rank of the stage must call this at the same time. Thread: main, before the engine's is there. Errors: what
// the backend refuses, the links' status, that of wait_for_others().
absl::StatusOr<StageTimes> measure_stage(const ModelShard& shard, kernels::Backend& backend,
                                         const StageTrialOptions& options);

}  // namespace baton::worker
