#include "kernels/cpu/rope_store.h"

#include <algorithm>

#include "kernels/cpu/contract.h"

namespace baton::kernels::cpu {
namespace {

constexpr int32_t kPiece = 256;         // positions whose angles are computed together
constexpr int32_t kKept = 64 * kPiece;  // positions whose angles are kept: 8 MiB for heads of 64, 16 for 128

}  // namespace

void RopeStore::set(const AttentionSpec& attention, const RopeSpec& rope) {
  spec_ = attention;
  rope_ = rope;
  kept_.clear();
}

void RopeStore::compute_angles(int32_t position, float* cos) const {
  const size_t pairs = rope_.inv_freq.size();
  for (size_t i = 0; i < pairs; ++i) {
    const auto rotation = contract::rotation(position, rope_.inv_freq[i], rope_.magnitude);
    cos[i] = rotation.cos;
    cos[pairs + i] = rotation.sin;
  }
}

const float* RopeStore::kept_angles(int32_t position) {
  const size_t floats = 2 * rope_.inv_freq.size();
  const auto piece = static_cast<size_t>(position / kPiece);
  if (kept_.size() <= piece) kept_.resize(piece + 1);
  std::vector<float>& angles = kept_[piece];
  if (angles.empty()) {
    angles.resize(kPiece * floats);
    for (int32_t i = 0; i < kPiece; ++i)
      compute_angles(position - position % kPiece + i, angles.data() + i * floats);
  }
  return angles.data() + position % kPiece * floats;
}

void RopeStore::begin_step(const StepBatch& batch) {
  const size_t floats = 2 * rope_.inv_freq.size();
  size_t far = std::ranges::count_if(batch.positions, [](int32_t p) { return p >= kKept; });
  if (far_.size() < far * floats) far_.resize(far * floats);
  angles_.resize(static_cast<size_t>(batch.rows()));
  for (size_t r = 0; r < angles_.size(); ++r) {
    if (batch.positions[r] < kKept) {
      angles_[r] = kept_angles(batch.positions[r]);
      continue;
    }
    float* angles = far_.data() + --far * floats;
    compute_angles(batch.positions[r], angles);
    angles_[r] = angles;
  }
}

void RopeStore::rotate(const NormWeights* norm, int64_t row, float* head) const {
  const auto pairs = static_cast<int64_t>(rope_.inv_freq.size());
  const float* cos = angles_[row];
  if (norm != nullptr) kernels_.rms_norm({head, norm->weight.data(), spec_.head_dim, norm->eps, head});
  kernels_.rotate({head, cos, cos + pairs, pairs, rope_.interleaved});
}

void RopeStore::store(const Call& call, const SequenceRows& sequence, int index, int kv_head,
                      const float* key) const {
  const int position = sequence.first_position + index;
  const float* values = call.qkv + (sequence.first_row + index) * width() +
                        int64_t{spec_.heads + spec_.kv_heads + kv_head} * spec_.head_dim;
  const KvPool::Tile tile = call.kv->tile(call.layer, sequence.blocks, kv_head, position / 16);
  kernels_.store_kv(
      {call.kv->geometry().type, spec_.head_dim, position % 16, key, values, tile.keys, tile.values});
}

void RopeStore::expect_row(const Call& call, const SequenceRows& sequence, int index) const {
  const int position = sequence.first_position + index;
  const KvGeometry& kv = call.kv->geometry();
  const int64_t vector = kv_vector_bytes(kv.type, kv.head_dim);
  for (int h = 0; h < spec_.kv_heads; ++h) {
    const KvPool::Tile tile = call.kv->tile(call.layer, sequence.blocks, h, position / 16);
    for (int64_t at = 0; at < 16 * vector; at += 64) __builtin_prefetch(tile.keys + at, 1);
    const std::byte* values = tile.values + position % 16 / 2 * 2 * vector;
    for (int64_t at = 0; at < 2 * vector; at += 64) __builtin_prefetch(values + at, 1);
  }
}

void RopeStore::store_row(const Call& call, const SequenceRows& sequence, int index) const {
  const int64_t row = sequence.first_row + index;
  float* head = call.qkv + row * width();
  for (int h = 0; h < spec_.heads; ++h, head += spec_.head_dim) rotate(call.q_norm, row, head);
  for (int h = 0; h < spec_.kv_heads; ++h, head += spec_.head_dim) {
    rotate(call.k_norm, row, head);
    store(call, sequence, index, h, head);
  }
}

void RopeStore::rotate_queries(const Call& call, int64_t row, int kv_head, float* q) const {
  const int share = spec_.heads / spec_.kv_heads;
  std::copy_n(call.qkv + row * width() + int64_t{kv_head} * share * spec_.head_dim, share * spec_.head_dim,
              q);
  for (int h = 0; h < share; ++h) rotate(call.q_norm, row, q + int64_t{h} * spec_.head_dim);
}

void RopeStore::store_head(const Call& call, const SequenceRows& sequence, int index, int kv_head,
                           float* scratch) const {
  const int64_t row = sequence.first_row + index;
  std::copy_n(call.qkv + row * width() + int64_t{spec_.heads + kv_head} * spec_.head_dim, spec_.head_dim,
              scratch);
  rotate(call.k_norm, row, scratch);
  store(call, sequence, index, kv_head, scratch);
}

void RopeStore::expect_queries(const Call& call, int64_t row, int kv_head) const {
  const float* at = call.qkv + row * width();
  const int share = spec_.heads / spec_.kv_heads, dim = spec_.head_dim;
  for (int i = 0; i < share * dim; i += 16) __builtin_prefetch(at + kv_head * share * dim + i);
  for (int i = 0; i < dim; i += 16) __builtin_prefetch(at + (spec_.heads + kv_head) * dim + i);
  for (int i = 0; i < dim; i += 16)
    __builtin_prefetch(at + (spec_.heads + spec_.kv_heads + kv_head) * dim + i);
}

}  // namespace baton::kernels::cpu
