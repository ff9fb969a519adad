#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "transport/data/data_plane.h"

namespace baton::worker {

// Equal exactly when two workers can read each other's KV pieces. Readable, because it stands in refusals:
// "30 layers, 3 heads x 64, 16 tokens, bf16, layout plain [1f0c...]". The number of blocks is not part of it.
std::string kv_layout_hash(const kernels::KvGeometry& geometry, std::string_view layout_name);

// Where `blocks` of one layer lie in the pool, adjacent blocks as one run. In order, so that two lists of
// equally many blocks describe the same bytes on both sides. Example, piece = 12,288 B, layer 0, blocks {4,
// 5, 9}: {49152, 24576}, {110592, 12288}.
std::vector<transport::PoolRun> pool_runs(const kernels::KvGeometry& geometry, int layer,
                                          std::span<const BlockId> blocks);

// The geometry can be transferred: sane numbers, pieces of whole cache lines, fits a pool of `pool_bytes`.
absl::Status check_transferable(const kernels::KvGeometry& geometry, size_t pool_bytes);

// Blocks that `tokens` positions occupy, the last one perhaps in part.
inline int32_t blocks_for(const kernels::KvGeometry& geometry, int32_t tokens) {
  return (tokens + geometry.block_tokens - 1) / geometry.block_tokens;
}

}  // namespace baton::worker
