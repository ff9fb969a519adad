#pragma once

#include "base/status.h"
#include "worker/model/model_spec.h"
#include "worker/model/weights.h"
#include "worker/parallel/model_part.h"

namespace baton::worker {

// What one rank of a group holds, as a model of its own. A plain value; views borrow from the mapped file.
// Example SmolLM2, tensor 3, rank 1: spec of 3 heads, 1 KV head and ffn 512, hidden 576 and vocab 49152 as
// before; weights.layers[i].down: columns [512, 1024) of the file's matrix; weights.head: rows [16384,
// 32768).
struct ModelShard {
  ModelPart part;
  ModelSpec spec;        // layers, heads, kv_heads and ffn are the rank's
  ModelWeights weights;  // .layers[0] is layer part.layers.begin of the model
};

// What the split depends on.
SplitModel split_model(const ModelSpec& spec, const ModelWeights& weights);

// kInvalidArgument for a shape that the model cannot be split into (part_of).
absl::StatusOr<ModelShard> shard_of(const ModelSpec& spec, const ModelWeights& weights,
                                    const ParallelShape& shape, int rank);
// All of it: the shard of a group of one.
ModelShard whole_model(const ModelSpec& spec, const ModelWeights& weights);

}  // namespace baton::worker
