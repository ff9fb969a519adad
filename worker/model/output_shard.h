#pragma once

#include "worker/model/model_shard.h"

namespace baton::worker {

// shard_of() for backends whose partial sums would not have the bits of one rank
// (DeviceBackend::splits_inputs): o and down are split by outputs whatever their K shards are. Example
// Llama-3.1-8B, tensor 2, rank 1: o and down are rows [2048, 4096), all columns.
absl::StatusOr<ModelShard> shard_by_outputs(const ModelSpec& spec, const ModelWeights& weights,
                                            const ParallelShape& shape, int rank);

}  // namespace baton::worker
