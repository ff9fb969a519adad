#include "kernels/reference/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/float16.h"

namespace baton::kernels::reference {
namespace {

// Eight partial sums, added pairwise.
float dot(const float* a, const float* b, size_t n) {
  float part[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (size_t l = 0; l < 8; ++l) part[l] += a[i + l] * b[i + l];
  for (size_t l = 0; i < n; ++i, ++l) part[l] += a[i] * b[i];
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

}  // namespace

size_t ReferenceKv::offset(int layer, BlockId block, int part, int kv_head, int slot) const {
  const size_t vector =
      (static_cast<size_t>(part) * geometry_.kv_heads + kv_head) * geometry_.block_tokens + slot;
  return geometry_.piece_offset(layer, block) + vector * kv_vector_bytes(geometry_.type, geometry_.head_dim);
}

// int8: the codes, then their scale in the vector's last four bytes.
void ReferenceKv::write_codes(std::byte* to, const float* values) const {
  const int dim = geometry_.head_dim;
  float amax = 0;
  for (int i = 0; i < dim; ++i) amax = std::max(amax, std::abs(values[i]));
  const float scale = amax / 127.0f;
  for (int i = 0; i < dim; ++i)
    to[i] = static_cast<std::byte>(amax == 0 ? 0 : static_cast<int8_t>(std::lround(values[i] / scale)));
  std::memcpy(to + kv_vector_bytes(KvType::kInt8, dim) - sizeof scale, &scale, sizeof scale);
}

void ReferenceKv::write(size_t at, const float* values) {
  std::byte* to = pool_.data() + at;
  if (geometry_.type == KvType::kInt8) return write_codes(to, values);
  if (geometry_.type == KvType::kF32) {
    std::memcpy(to, values, sizeof(float) * geometry_.head_dim);
    return;
  }
  for (int i = 0; i < geometry_.head_dim; ++i) {
    const uint16_t bits =
        geometry_.type == KvType::kBF16 ? float_to_bfloat16(values[i]) : float_to_half(values[i]);
    std::memcpy(to + 2 * i, &bits, 2);
  }
}

void ReferenceKv::read(size_t at, float* values) const {
  const std::byte* from = pool_.data() + at;
  if (geometry_.type == KvType::kInt8) {
    float scale;
    std::memcpy(&scale, from + kv_vector_bytes(KvType::kInt8, geometry_.head_dim) - sizeof scale,
                sizeof scale);
    for (int i = 0; i < geometry_.head_dim; ++i)
      values[i] = scale * static_cast<float>(static_cast<int8_t>(from[i]));
    return;
  }
  if (geometry_.type == KvType::kF32) {
    std::memcpy(values, from, sizeof(float) * geometry_.head_dim);
    return;
  }
  for (int i = 0; i < geometry_.head_dim; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    values[i] = geometry_.type == KvType::kBF16 ? bfloat16_to_float(bits) : half_to_float(bits);
  }
}

void ReferenceKv::store(int layer, BlockId block, int slot, const float* k, const float* v) {
  for (int head = 0; head < geometry_.kv_heads; ++head) {
    write(offset(layer, block, 0, head, slot), k + static_cast<size_t>(head) * geometry_.head_dim);
    write(offset(layer, block, 1, head, slot), v + static_cast<size_t>(head) * geometry_.head_dim);
  }
}

void ReferenceKv::load(int layer, std::span<const BlockId> blocks, int kv_head, int count,
                       Opened& out) const {
  const size_t dim = geometry_.head_dim;
  out.keys.resize(count * dim);
  out.values.resize(count * dim);
  for (int position = 0; position < count; ++position) {
    const BlockId block = blocks[position / geometry_.block_tokens];
    const int slot = position % geometry_.block_tokens;
    read(offset(layer, block, 0, kv_head, slot), out.keys.data() + position * dim);
    read(offset(layer, block, 1, kv_head, slot), out.values.data() + position * dim);
  }
}

void attend(const ReferenceKv::Opened& kv, AttendedRange range, float scale, std::span<const float> q,
            std::span<float> out) {
  constexpr int kChain = 32;  // float products before a sum goes to double
  const size_t dim = q.size();
  const int count = range.last - range.first + 1;
  const float* keys = kv.keys.data() + range.first * dim;
  const float* values = kv.values.data() + range.first * dim;
  std::vector<float> weights(count);
  for (int i = 0; i < count; ++i) weights[i] = dot(q.data(), keys + i * dim, dim) * scale;
  const float top = *std::max_element(weights.begin(), weights.end());
  double total = 0;
  for (float& w : weights) {
    w = std::exp(w - top);
    total += w;
  }
  std::vector<double> sums(dim, 0.0);
  std::vector<float> chain(dim);
  for (int i = 0; i < count; i += kChain) {
    std::ranges::fill(chain, 0.0f);
    for (int j = i; j < std::min(count, i + kChain); ++j)
      for (size_t c = 0; c < dim; ++c) chain[c] += weights[j] * values[j * dim + c];
    for (size_t c = 0; c < dim; ++c) sums[c] += chain[c];
  }
  for (size_t c = 0; c < dim; ++c) out[c] = static_cast<float>(sums[c] / total);
}

}  // namespace baton::kernels::reference
