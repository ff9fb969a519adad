#pragma once

#include <cstddef>
#include <span>

#include "kernels/backend.h"

namespace baton::kernels::cpu {

// Addresses inside the KV pool. A piece is [kv_head]{ K [tokens/16][tile], V [tokens/16][tile] }, tiles as in
// kernels.h: lanes are tokens where scores are made and dimensions where values are summed, and one head's
// bytes are adjacent.
class KvPool {
 public:
  KvPool() = default;
  KvPool(std::span<std::byte> pool, const KvGeometry& geometry)
      : pool_(pool.data()),
        geometry_(geometry),
        piece_bytes_(geometry.piece_bytes()),
        layer_bytes_(geometry.layer_bytes()),
        tile_bytes_(size_t{16} * kv_vector_bytes(geometry.type, geometry.head_dim)),
        tiles_(geometry.block_tokens / 16) {}
  const KvGeometry& geometry() const { return geometry_; }

  // Where the piece of layer 0 lies; those of the other layers geometry().layer_bytes() apart.
  const std::byte* first_piece(BlockId block) const { return pool_ + geometry_.piece_offset(0, block); }
  struct Tile {
    std::byte* keys;
    std::byte* values;
  };
  // The 16 tokens from position 16 * tile of the sequence that owns `blocks`.
  Tile tile(int layer, std::span<const BlockId> blocks, int kv_head, int tile) const;

 private:
  std::byte* pool_ = nullptr;
  KvGeometry geometry_;
  size_t piece_bytes_ = 0;
  size_t layer_bytes_ = 0;
  size_t tile_bytes_ = 0;
  int tiles_ = 0;  // of a block
};

}  // namespace baton::kernels::cpu
