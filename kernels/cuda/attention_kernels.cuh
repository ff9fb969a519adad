#pragma once

#include "kernels/cuda/attention_rows.cuh"

// Attention over the paged KV, two numerics: plain_attention_kernel (any head size, the contract of
// kernels/cpu/contract.h bit for bit) and tile_attention_kernel (tensor cores, head sizes 64 and 128). The
// rule of the second, for one row: keys in tiles of 64 at absolute positions, ascending, running maximum and
// sum inside a chunk of 256; chunks merge ascending from (-inf, 0, 0). Tiles and chunks of which a row sees
// nothing change no bit, so which rows share a block does not matter, nor whether one block walks all chunks
// (prefill) or each chunk has its own (decode).
//
// Roofline: 4 * head_dim bytes of K and V a key and KV head against 4 * head_dim operations a key and query
// row: decode is bound by bytes, prefill (64 packed rows a block) by the tensor cores.
namespace baton::kernels::cuda {

inline constexpr int kPlainThreads = 128;

struct PlainScratch {
  float scores[kChunkKeys];
  float lanes[16];
  float warp_max[kPlainThreads / 32];
};

__device__ inline float plain_max(PlainScratch& s, float value) {
  for (int apart = 16; apart >= 1; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, apart));
  if (threadIdx.x % 32 == 0) s.warp_max[threadIdx.x / 32] = value;
  __syncthreads();
  float max = s.warp_max[0];
  for (int w = 1; w < kPlainThreads / 32; ++w) max = fmaxf(max, s.warp_max[w]);
  return max;
}

// Weights of keys [low, high] of one chunk into s.scores; returns their maximum. Their sum: 16 lanes in
// s.lanes.
__device__ inline float plain_weights(const AttentionArgs& a, PlainScratch& s, const float* q,
                                      const int32_t* blocks, int kv_head, int low, int high) {
  float max = -INFINITY;
  for (int j = low + threadIdx.x; j <= high; j += kPlainThreads) {
    const uint16_t* key = kv_vector(a.kv, blocks, j, 0, kv_head);
    float score = 0;
    for (int d = 0; d < a.kv.head_dim; ++d) score = fmaf(q[d], bf16_to_float(key[d]), score);
    s.scores[j % kChunkKeys] = score * a.scale;
    max = fmaxf(max, s.scores[j % kChunkKeys]);
  }
  max = plain_max(s, max);
  for (int j = low + threadIdx.x; j <= high; j += kPlainThreads)
    s.scores[j % kChunkKeys] = exponential(s.scores[j % kChunkKeys] - max);
  __syncthreads();
  if (threadIdx.x < 16) {
    float sum = 0;
    for (int j = low / 16 * 16 + threadIdx.x; j <= high; j += 16)
      if (j >= low) sum += s.scores[j % kChunkKeys];
    s.lanes[threadIdx.x] = sum;
  }
  __syncthreads();
  return max;
}

__device__ inline float sum_of_lanes(const float* lanes) {
  float sum[16];
#pragma unroll
  for (int l = 0; l < 16; ++l) sum[l] = lanes[l];
#pragma unroll
  for (int apart = 8; apart >= 1; apart /= 2)
#pragma unroll
    for (int l = 0; l < apart; ++l) sum[l] += sum[l + apart];
  return sum[0];
}

// Grid: (rows, heads); shared: 2 * head_dim floats (q, values so far).
__global__ void plain_attention_kernel(StepTables step, AttentionArgs a) {
  begin_kernel();
  __shared__ PlainScratch scratch;
  const int64_t row = blockIdx.x;
  if (row >= step.counts[kRows]) return;
  const int dim = a.kv.head_dim, head = blockIdx.y, kv_head = head / a.share, position = step.positions[row];
  const int32_t* blocks = step.blocks + step.block_starts[step.row_sequence[row]];
  float* q = reinterpret_cast<float*>(shared_memory());
  float* total = q + dim;
  const float* from = a.qkv + (row * (a.heads + 2 * a.kv.kv_heads) + head) * dim;
  for (int d = threadIdx.x; d < dim; d += kPlainThreads) q[d] = from[d];
  __syncthreads();
  const int first = first_seen(a, position);
  float total_max = 0, total_sum = 0;
  for (int chunk = first / kChunkKeys; chunk <= position / kChunkKeys; ++chunk) {
    const int low = chunk * kChunkKeys > first ? chunk * kChunkKeys : first;
    const int high = (chunk + 1) * kChunkKeys - 1 < position ? (chunk + 1) * kChunkKeys - 1 : position;
    const float max = plain_weights(a, scratch, q, blocks, kv_head, low, high);
    const float sum = sum_of_lanes(scratch.lanes);
    const bool begins = low == first;
    const float both = begins ? max : fmaxf(total_max, max);
    const float keep = exponential(total_max - both), add = exponential(max - both);
    for (int d = threadIdx.x; d < dim; d += kPlainThreads) {
      float value = 0;
      for (int j = low; j <= high; ++j)
        value = fmaf(scratch.scores[j % kChunkKeys], bf16_to_float(kv_vector(a.kv, blocks, j, 1, kv_head)[d]),
                     value);
      value += 0.0f;
      total[d] = begins ? value : fmaf(total[d], keep, value * add);
    }
    total_sum = begins ? sum : fmaf(total_sum, keep, sum * add);
    total_max = both;
    __syncthreads();  // the scores are free again
  }
  const float inverse = 1.0f / total_sum;
  for (int d = threadIdx.x; d < dim; d += kPlainThreads)
    a.out[(row * 2 * a.heads + head) * dim + d] = float_to_bf16(total[d] * inverse);
}

// ---- tensor cores ----

// Bytes of chunk c (16 bytes) of row r in tiles of head_dim * 2 bytes a row. Keys and queries are read 2 rows
// x 4 chunks at a time, values 8 rows x 1 chunk: each order is free of bank conflicts.
template <int kDim>
__device__ inline int key_chunk(int r, int c) {
  return r * kDim * 2 + ((c ^ ((r & 1) * 4)) * 16);
}
template <int kDim>
__device__ inline int value_chunk(int r, int c) {
  return r * kDim * 2 + ((c ^ (r & 7)) * 16);
}

template <int kDim, int kWarps>
struct AttentionShared {
  static constexpr int kQueryBytes = 16 * kWarps * kDim * 2;
  static constexpr int kTileBytes = kTileKeys * kDim * 2;      // of keys, and of values
  static constexpr int kBytes = kQueryBytes + 4 * kTileBytes;  // two stages of keys and values
};

// Keys and values of tile `tile` into a stage; zeros beyond `length`.
template <int kDim, int kWarps>
__device__ inline void load_tile(const LayerKv& kv, const int32_t* blocks, int kv_head, int tile, int length,
                                 unsigned char* stage) {
  for (int i = threadIdx.x; i < kTileKeys * kDim / 8; i += 32 * kWarps) {
    const int r = i / (kDim / 8), c = i % (kDim / 8), position = tile * kTileKeys + r;
    const bool valid = position < length;
    const uint16_t* key = kv_vector(kv, blocks, valid ? position : 0, 0, kv_head) + c * 8;
    const int bytes = valid ? 16 : 0;
    copy_async16(stage + key_chunk<kDim>(r, c), key, bytes);
    copy_async16(stage + kTileKeys * kDim * 2 + value_chunk<kDim>(r, c),
                 key + static_cast<int64_t>(kv.kv_heads) * kv.block_tokens * kDim, bytes);
  }
  copy_async_commit();
}

// s[16 rows][64 keys] = q k^T * scale, -inf where a row must not look.
template <int kDim>
__device__ inline void score_tile(const unsigned char* q, const unsigned char* keys, const RowRange& range,
                                  int first_key, float scale, float (&s)[8][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
  for (int c = 0; c < kDim / 8; c += 4) {
    const Words4 low = load16(q + key_chunk<kDim>(g, c + t)),
                 high = load16(q + key_chunk<kDim>(g + 8, c + t));
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const Words4 key = load16(keys + key_chunk<kDim>(n * 8 + g, c + t));
      mma_bf16(s[n], {low.x, high.x, low.y, high.y}, key.x, key.y);
      mma_bf16(s[n], {low.z, high.z, low.w, high.w}, key.z, key.w);
    }
  }
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = first_key + n * 8 + 2 * t + e % 2;
      s[n][e] = key >= range.first[e / 2] && key <= range.last[e / 2] ? s[n][e] * scale : -INFINITY;
    }
}

// values += weights * V
template <int kDim>
__device__ inline void add_values(RowState<kDim>& state, const float (&s)[8][4],
                                  const unsigned char* values) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const MatrixA p = {pack_bf16(s[2 * k][0], s[2 * k][1]), pack_bf16(s[2 * k][2], s[2 * k][3]),
                       pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]),
                       pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      uint32_t b0, b1;
      load_transposed(b0, b1, values + value_chunk<kDim>(k * 16 + lane % 16, d));
      mma_bf16(state.values[d], p, b0, b1);
    }
  }
}

// Rows of the item's packed range, rounded to bf16, into shared memory; zeros beyond it.
template <int kDim, int kWarps>
__device__ inline void load_queries(const AttentionArgs& a, const AttentionItem& item, unsigned char* q) {
  for (int i = threadIdx.x; i < 16 * kWarps * kDim / 2; i += 32 * kWarps) {
    const int r = i / (kDim / 2), pair = i % (kDim / 2), packed = item.packed_begin + r;
    uint32_t word = 0;
    if (packed < item.packed_end) {
      const int64_t row = item.first_row + packed / a.share;
      const int head = item.kv_head * a.share + packed % a.share;
      const float* from = a.qkv + (row * (a.heads + 2 * a.kv.kv_heads) + head) * kDim + 2 * pair;
      word = pack_bf16(from[0], from[1]);
    }
    *reinterpret_cast<uint32_t*>(q + key_chunk<kDim>(r, pair / 4) + pair % 4 * 4) = word;
  }
}

template <int kDim, int kWarps>
__device__ inline void attend_item(const StepTables& step, const AttentionArgs& a,
                                   const AttentionItem& item) {
  using Shared = AttentionShared<kDim, kWarps>;
  unsigned char* q = shared_memory();
  unsigned char* stages = q + Shared::kQueryBytes;
  const int32_t* blocks = step.blocks + step.block_starts[item.sequence];
  const int length = step.lengths[item.sequence];
  const int last_position = step.positions[item.first_row + (item.packed_end - 1) / a.share];
  const int chunk_end = item.last_chunk * 4 + 3, seen_end = last_position / kTileKeys;
  const int first_tile = item.first_chunk * 4, last_tile = seen_end < chunk_end ? seen_end : chunk_end;
  load_tile<kDim, kWarps>(a.kv, blocks, item.kv_head, first_tile, length, stages);
  load_queries<kDim, kWarps>(a, item, q);
  const RowRange range = row_range<kWarps>(step, a, item);
  const float scale = a.scale * 0x1.715476p+0f;  // weights are powers of two
  RowState<kDim> total, chunk;
  total.clear();
  chunk.clear();
  for (int tile = first_tile; tile <= last_tile; ++tile) {
    unsigned char* stage = stages + (tile - first_tile) % 2 * 2 * Shared::kTileBytes;
    copy_async_wait<0>();
    __syncthreads();  // the tile is there, and everybody is done with the other stage
    if (tile < last_tile)
      load_tile<kDim, kWarps>(a.kv, blocks, item.kv_head, tile + 1, length,
                              stages + (tile + 1 - first_tile) % 2 * 2 * Shared::kTileBytes);
    float s[8][4];
    score_tile<kDim>(q + threadIdx.x / 32 * 16 * kDim * 2, stage, range, tile * kTileKeys, scale, s);
    weigh_tile<kDim>(chunk, s);
    add_values<kDim>(chunk, s, stage + Shared::kTileBytes);
    if (tile % 4 != 3 && tile != last_tile) continue;
    close_chunk<kDim>(chunk);
    if (item.slot >= 0) {  // one chunk only
      store_partial<kDim>(a, item, chunk);
      break;
    }
    merge_chunk<kDim>(total, chunk);
    chunk.clear();
  }
  if (item.slot < 0) store_output<kDim>(a, item, total);
  __syncthreads();  // the next item fills q and the stages
}

// Items of 16 * kWarps packed rows. Grid: any; shared: AttentionShared::kBytes.
template <int kDim, int kWarps>
__global__ void __launch_bounds__(32 * kWarps) tile_attention_kernel(StepTables step, AttentionArgs a) {
  begin_kernel();
  const AttentionItem* items = kWarps == 1 ? step.narrow_items : step.wide_items;
  const int count = step.counts[kWarps == 1 ? kNarrowItems : kWideItems];
  for (int i = blockIdx.x; i < count; i += gridDim.x) attend_item<kDim, kWarps>(step, a, items[i]);
}

// Ascending chunks of narrow items become output rows. Grid: any; 128 threads.
template <int kDim>
__global__ void merge_kernel(StepTables step, AttentionArgs a) {
  begin_kernel();
  for (int i = blockIdx.x; i < step.counts[kMergeItems]; i += gridDim.x) {
    const MergeItem item = step.merge_items[i];
    const int rows = item.packed_end - item.packed_begin;
    for (int v = threadIdx.x; v < rows * kDim; v += kPlainThreads) {
      const int r = v / kDim, d = v % kDim, packed = item.packed_begin + r;
      float max = -INFINITY, sum = 0, value = 0;
      for (int c = 0; c < item.chunks; ++c) {
        const float* from = a.partials + (static_cast<int64_t>(item.first_slot + c) * 16 + r) * (kDim + 2);
        const MergeFactors f = merge_factors(max, from[0]);
        max = f.max;
        sum = merged(sum, from[1], f);
        value = merged(value, from[2 + d], f);
      }
      const int64_t row = item.first_row + packed / a.share;
      const int head = item.kv_head * a.share + packed % a.share;
      const float inverse = 1.0f / sum;
      a.out[(row * 2 * a.heads + head) * kDim + d] = float_to_bf16(value * inverse);
    }
  }
}

}  // namespace baton::kernels::cuda
