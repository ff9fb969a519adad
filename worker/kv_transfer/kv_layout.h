#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "transport/data/data_plane.h"
#include "worker/kv_transfer/kv_reslice.h"

namespace baton::worker {

// Equal exactly when two workers can read each other's KV pieces. `geometry` is that of the whole model,
// whatever part of it a rank holds, so that workers of different shapes are equal. Readable, because it
// stands in refusals: "30 layers, 3 heads x 64, 16 tokens, bf16, layout plain [1f0c...]". The number of
// blocks is not part of it.
std::string kv_layout_hash(const kernels::KvGeometry& geometry, std::string_view layout_name);

// Where `blocks` of one layer lie in the pool, adjacent blocks as one run. In order, so that two lists of
// equally many blocks describe the same bytes on both sides. Example, piece = 12,288 B, layer 0, blocks {4,
// 5, 9}: {49152, 24576}, {110592, 12288}.
std::vector<transport::PoolRun> pool_runs(const kernels::KvGeometry& geometry, int layer,
                                          std::span<const BlockId> blocks);
// The same of some heads only: `run` inside each piece. Example {4096, 4096}, blocks {4, 5}: {53248, 4096},
// {65536, 4096}.
std::vector<transport::PoolRun> pool_runs(const kernels::KvGeometry& geometry, int layer,
                                          std::span<const BlockId> blocks, const PieceRun& run);

// Bytes of one head in a piece, for layouts whose pieces are head after head.
inline uint64_t head_bytes(const kernels::KvGeometry& geometry) {
  return geometry.piece_bytes() / static_cast<uint64_t>(geometry.kv_heads);
}

// Heads lie one after the other in pieces of this layout, so that some of them can be sent apart.
inline bool heads_apart(std::string_view layout_name) { return layout_name.starts_with("kv-head-"); }

// The geometry can be transferred: sane numbers, pieces of whole cache lines, fits a pool of `pool_bytes`.
absl::Status check_transferable(const kernels::KvGeometry& geometry, size_t pool_bytes);

// Blocks that `tokens` positions occupy, the last one perhaps in part.
inline int32_t blocks_for(const kernels::KvGeometry& geometry, int32_t tokens) {
  return (tokens + geometry.block_tokens - 1) / geometry.block_tokens;
}

}  // namespace baton::worker
