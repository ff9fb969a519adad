#include "kernels/cpu/kv_pool.h"

namespace baton::kernels::cpu {

KvPool::Tile KvPool::tile(int layer, std::span<const BlockId> blocks, int kv_head, int tile) const {
  const int tiles = geometry_.block_tokens / 16;
  const size_t tile_bytes = size_t{16} * kv_vector_bytes(geometry_.type, geometry_.head_dim);
  std::byte* head =
      pool_ + geometry_.piece_offset(layer, blocks[tile / tiles]) + 2 * kv_head * tiles * tile_bytes;
  std::byte* keys = head + tile % tiles * tile_bytes;
  return {keys, keys + tiles * tile_bytes};
}

}  // namespace baton::kernels::cpu
