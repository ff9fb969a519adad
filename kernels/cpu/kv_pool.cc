#include "kernels/cpu/kv_pool.h"

namespace baton::kernels::cpu {

KvPool::Tile KvPool::tile(int layer, std::span<const BlockId> blocks, int kv_head, int tile) const {
  const int block = tiles_ == 1 ? tile : tile / tiles_;
  std::byte* piece = pool_ + layer * layer_bytes_ + blocks[block].value() * piece_bytes_;
  std::byte* keys = piece + (2 * kv_head * tiles_ + (tile - block * tiles_)) * tile_bytes_;
  return {keys, keys + tiles_ * tile_bytes_};
}

}  // namespace baton::kernels::cpu
