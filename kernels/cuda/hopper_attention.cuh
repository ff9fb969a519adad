#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper_operands.cuh"

// Attention on sm_90a: the rule of attention_kernels.cuh (tiles of 64 keys, chunks of 256, ascending merges)
// with warpgroup products: scores m64n64k16 from shared memory, weights as the register operand of values +=
// weights * V. A numerics class of its own, with the same bits for wide items (64 packed rows) and narrow
// ones (16): rows of the 64 that an item does not have see nothing. One producer thread brings pages by
// tensor loads; a block has one warpgroup. With head size 64 two blocks on a processor hide each other's
// exponentials; with 128 the registers hold one (two states of 64 values), and nothing does.
//
// Roofline: as attention_kernels.cuh; a tile of head size 128 is 16 products of 32 cycles for 32 KB, which
// the memory of one of 132 SMs brings in about 1,700 cycles: decode stays bound by bytes with 16 of 64 rows
// used. Include device_words.cuh and hopper_words.cuh (or their emulation) first.
namespace baton::kernels::cuda {

template <int kDim>
struct HopperAttention {
  static constexpr int kParts = kDim / 64;          // of 64 columns: [64 rows][128 bytes], swizzled
  static constexpr int kTileBytes = 64 * kDim * 2;  // of queries, keys or values
  static constexpr int kStages = 4;
  static constexpr int kBlocks = kDim == 64 ? 2 : 1;  // on a processor: as many as registers allow
  static constexpr int kThreads = 128 + 32;
  static constexpr int kBytes = 1024 + kTileBytes + kStages * (2 * kTileBytes + 16);
};

// Tells the compiler that all lanes have the same value, so that products in a loop over it need no wait of
// their own.
__device__ inline int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

struct AttentionRing {
  unsigned char* queries;
  unsigned char* stages;
  uint64_t* full;
  uint64_t* empty;
};

template <int kDim>
__device__ inline AttentionRing make_attention_ring() {
  using Shape = HopperAttention<kDim>;
  unsigned char* shared = shared_memory();
  shared += (1024 - shared_address(shared) % 1024) % 1024;
  unsigned char* stages = shared + Shape::kTileBytes;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(stages + Shape::kStages * 2 * Shape::kTileBytes);
  const AttentionRing ring = {shared, stages, barriers, barriers + Shape::kStages};
  if (threadIdx.x == 0) {
    for (int s = 0; s < Shape::kStages; ++s) {
      barrier_init(ring.full + s, 1);
      barrier_init(ring.empty + s, 4);
    }
    barriers_ready();
  }
  __syncthreads();
  return ring;
}

struct TileRange {
  int first, last;
};
__device__ inline TileRange item_tiles(const StepTables& step, const AttentionArgs& a,
                                       const AttentionItem& item) {
  const int last_position = step.positions[item.first_row + (item.packed_end - 1) / a.share];
  const int chunk_end = item.last_chunk * 4 + 3, seen_end = last_position / kTileKeys;
  return {item.first_chunk * 4, seen_end < chunk_end ? seen_end : chunk_end};
}

// Keys and values of one tile: pages, or pieces of 64 keys of larger ones, as far as the sequence has them.
template <int kDim>
__device__ inline void bring_tile(const TensorMap& pool, const LayerKv& kv, const int32_t* blocks,
                                  int kv_head, int tile, int length, unsigned char* stage, uint64_t* full) {
  using Shape = HopperAttention<kDim>;
  const int each = kv.block_tokens < kTileKeys ? kv.block_tokens : kTileKeys, first = tile * kTileKeys;
  const int left = length - first < kTileKeys ? length - first : kTileKeys, pieces = (left + each - 1) / each;
  barrier_arrive_expecting(full, static_cast<uint32_t>(pieces * each * kDim * 4));
  for (int piece = 0; piece < pieces; ++piece) {
    const int position = first + piece * each;
    for (int part = 0; part < 2; ++part) {
      const int row =
          ((blocks[position / kv.block_tokens] * 2 + part) * kv.kv_heads + kv_head) * kv.block_tokens +
          position % kv.block_tokens;
      unsigned char* to = stage + part * Shape::kTileBytes + piece * each * 128;
      for (int c = 0; c < Shape::kParts; ++c) tensor_load(to + c * 64 * 128, pool, c * 64, row, full);
    }
  }
}

// Byte of column pair `pair` of row r of a [64][kDim] tile.
__device__ inline int swizzled_pair(int r, int pair) {
  return pair / 32 * 64 * 128 + r * 128 + ((pair / 4 % 8 ^ r % 8) * 16) + pair % 4 * 4;
}

// Rows of the item's packed range, rounded to bf16; zeros beyond it.
template <int kDim>
__device__ inline void store_queries(const AttentionArgs& a, const AttentionItem& item,
                                     unsigned char* queries) {
  for (int i = threadIdx.x; i < 64 * kDim / 2; i += 128) {
    const int r = i / (kDim / 2), pair = i % (kDim / 2), packed = item.packed_begin + r;
    uint32_t word = 0;
    if (packed < item.packed_end) {
      const int64_t row = item.first_row + packed / a.share;
      const int head = item.kv_head * a.share + packed % a.share;
      const float* from = a.qkv + (row * (a.heads + 2 * a.kv.kv_heads) + head) * kDim + 2 * pair;
      word = pack_bf16(from[0], from[1]);
    }
    *reinterpret_cast<uint32_t*>(queries + swizzled_pair(r, pair)) = word;
  }
}

// Values of keys that the sequence does not have are zero: a weight of zero times what may lie there is not.
template <int kDim>
__device__ inline void clear_values(unsigned char* values, int first_row) {
  for (int i = threadIdx.x; i < (kTileKeys - first_row) * kDim / 2; i += 128)
    *reinterpret_cast<uint32_t*>(values + swizzled_pair(first_row + i / (kDim / 2), i % (kDim / 2))) = 0;
}

using Values32 = float[32];

// s[64 rows][64 keys] = q k^T * scale, -inf where a row must not look.
template <int kDim>
__device__ inline void hopper_scores(const unsigned char* queries, const unsigned char* keys,
                                     const RowRange& range, int first_key, float scale, float (&s)[8][4]) {
  Values32& sums = reinterpret_cast<Values32&>(s);
  hold(sums);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k)
    wgmma_bf16(sums, columns_on(swizzled_operand(queries + k / 4 * 64 * 128), k % 4),
               columns_on(swizzled_operand(keys + k / 4 * 64 * 128), k % 4), k > 0);
  wgmma_commit();
  wgmma_wait<0>();
  hold(sums);
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first_key + n * 8 + 2 * (threadIdx.x % 4) + e % 2;
      s[n][e] = key >= range.first[e / 2] && key <= range.last[e / 2] ? s[n][e] * scale : -INFINITY;
    }
}

template <int kDim>
__device__ inline void hopper_values(RowState<kDim>& state, const float (&s)[8][4],
                                     const unsigned char* values) {
  MatrixA p[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    p[k] = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
            pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]), pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
    hold(p[k]);
  }
#pragma unroll
  for (int c = 0; c < kDim / 64; ++c) hold(reinterpret_cast<Values32&>(state.values[8 * c]));
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int c = 0; c < kDim / 64; ++c)
      wgmma_bf16_rows(reinterpret_cast<Values32&>(state.values[8 * c]), p[k],
                      rows_on(swizzled_operand(values + c * 64 * 128), k));
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int c = 0; c < kDim / 64; ++c) hold(reinterpret_cast<Values32&>(state.values[8 * c]));
}

// `turn`: tiles of this block so far.
template <int kDim>
__device__ inline void attend_hopper_item(const AttentionRing& ring, const StepTables& step,
                                          const AttentionArgs& a, const AttentionItem& item, int& turn) {
  using Shape = HopperAttention<kDim>;
  const TileRange seen = item_tiles(step, a, item);
  const TileRange tiles = {uniform(seen.first), uniform(seen.last)};
  const int length = uniform(step.lengths[item.sequence]);
  const RowRange range = row_range<4>(step, a, item);
  const float scale = a.scale * 0x1.715476p+0f;  // weights are powers of two
  sync_group();                                  // everybody is done with the queries before
  store_queries<kDim>(a, item, ring.queries);
  fence_async();
  sync_group();
  RowState<kDim> total, chunk;
  total.clear();
  chunk.clear();
  for (int tile = tiles.first; tile <= tiles.last; ++tile, ++turn) {
    const int slot = turn % Shape::kStages;
    unsigned char* stage = ring.stages + slot * 2 * Shape::kTileBytes;
    barrier_wait(ring.full + slot, turn / Shape::kStages & 1);
    if (length < (tile + 1) * kTileKeys) {
      clear_values<kDim>(stage + Shape::kTileBytes, length - tile * kTileKeys);
      fence_async();
      sync_group();
    }
    float s[8][4] = {};
    hopper_scores<kDim>(ring.queries, stage, range, tile * kTileKeys, scale, s);
    weigh_tile<kDim>(chunk, s);
    hopper_values<kDim>(chunk, s, stage + Shape::kTileBytes);
    if (threadIdx.x % 32 == 0) barrier_arrive(ring.empty + slot);
    if (tile % 4 != 3 && tile != tiles.last) continue;
    close_chunk<kDim>(chunk);
    if (item.slot >= 0) {
      store_partial<kDim>(a, item, chunk);
    } else {
      merge_chunk<kDim>(total, chunk);
      chunk.clear();
    }
  }
  if (item.slot < 0) store_output<kDim>(a, item, total);
}

template <int kDim>
__device__ inline void bring_item(const AttentionRing& ring, const TensorMap& pool, const StepTables& step,
                                  const AttentionArgs& a, const AttentionItem& item, int& turn) {
  using Shape = HopperAttention<kDim>;
  const TileRange tiles = item_tiles(step, a, item);
  const int32_t* blocks = step.blocks + step.block_starts[item.sequence];
  for (int tile = tiles.first; tile <= tiles.last; ++tile, ++turn) {
    const int slot = turn % Shape::kStages;
    barrier_wait(ring.empty + slot, (turn / Shape::kStages & 1) ^ 1);
    bring_tile<kDim>(pool, a.kv, blocks, item.kv_head, tile, step.lengths[item.sequence],
                     ring.stages + slot * 2 * Shape::kTileBytes, ring.full + slot);
  }
}

// Items of the wide list, or of the narrow one. Grid: any; HopperAttention::kThreads; shared:
// HopperAttention::kBytes.
template <int kDim>
__global__ void __launch_bounds__(HopperAttention<kDim>::kThreads, HopperAttention<kDim>::kBlocks)
    hopper_attention_kernel(const __grid_constant__ TensorMap pool, StepTables step, AttentionArgs a,
                            bool narrow) {
  begin_kernel();
  const AttentionItem* items = narrow ? step.narrow_items : step.wide_items;
  const int count = uniform(step.counts[narrow ? kNarrowItems : kWideItems]);
  if (static_cast<int>(blockIdx.x) >= count) return;
  const AttentionRing ring = make_attention_ring<kDim>();
  int turn = 0;
  if (threadIdx.x < 128) {
    for (int i = blockIdx.x; i < count; i += gridDim.x)
      attend_hopper_item<kDim>(ring, step, a, items[i], turn);
  } else if (threadIdx.x == 128) {
    for (int i = blockIdx.x; i < count; i += gridDim.x) bring_item<kDim>(ring, pool, step, a, items[i], turn);
  }
}

}  // namespace baton::kernels::cuda
