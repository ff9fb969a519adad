#include "worker/kv_transfer/kv_layout.h"

#include <cinttypes>
#include <cstdio>

#include "base/block_hash.h"
#include "base/cat.h"

namespace baton::worker {
namespace {

std::string_view type_name(kernels::KvType type) {
  switch (type) {
    case kernels::KvType::kF32:
      return "f32";
    case kernels::KvType::kBF16:
      return "bf16";
    case kernels::KvType::kF16:
      return "f16";
    case kernels::KvType::kInt8:
      return "int8";
  }
  return "?";
}

}  // namespace

std::string kv_layout_hash(const kernels::KvGeometry& g, std::string_view layout_name) {
  const std::string text = cat(g.layers, " layers, ", g.kv_heads, " heads x ", g.head_dim, ", ",
                               g.block_tokens, " tokens, ", type_name(g.type), ", layout ", layout_name);
  char digest[24];
  std::snprintf(digest, sizeof digest, " [%016" PRIx64 "]", root_hash(HashKey{}, text).lo);
  return text.substr(0, 200) + digest;
}

std::vector<transport::PoolRun> pool_runs(const kernels::KvGeometry& geometry, int layer,
                                          std::span<const BlockId> blocks) {
  return pool_runs(geometry, layer, blocks, {.bytes = geometry.piece_bytes()});
}

std::vector<transport::PoolRun> pool_runs(const kernels::KvGeometry& geometry, int layer,
                                          std::span<const BlockId> blocks, const PieceRun& run) {
  std::vector<transport::PoolRun> runs;
  for (const BlockId block : blocks) {
    const uint64_t offset = geometry.piece_offset(layer, block) + run.offset;
    if (!runs.empty() && runs.back().offset + runs.back().bytes == offset) {
      runs.back().bytes += run.bytes;
    } else {
      runs.push_back({.offset = offset, .bytes = run.bytes});
    }
  }
  return runs;
}

absl::Status check_transferable(const kernels::KvGeometry& g, size_t pool_bytes) {
  if (g.layers <= 0 || g.kv_heads <= 0 || g.head_dim <= 0 || g.block_tokens <= 0 || g.blocks <= 0)
    return absl::InvalidArgumentError("KV geometry: every number must be positive");
  if (g.piece_bytes() % transport::kPoolAlignment != 0)
    return absl::InvalidArgumentError(cat("KV geometry: a piece of ", g.piece_bytes(),
                                          " bytes is not a multiple of ", transport::kPoolAlignment));
  if (g.pool_bytes() > pool_bytes)
    return absl::InvalidArgumentError(
        cat("KV geometry: needs ", g.pool_bytes(), " bytes, the pool has ", pool_bytes));
  return absl::OkStatus();
}

}  // namespace baton::worker
