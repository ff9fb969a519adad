#pragma once

#include <vector>

#include "kernels/backend.h"
#include "worker/model/model_shard.h"

namespace baton::worker {

// The matrices of a rank: of its layers (q k v, o, gate and up, down, in this order) and the head, as
// LlamaModel gives them to its backend.
std::vector<kernels::LinearSpec> model_linears(const ModelShard& shard);

}  // namespace baton::worker
