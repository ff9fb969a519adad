#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace baton::kernels::reference {

// KV pool with pieces laid out [K|V][kv_head][token][head_dim] in the pool's element type.
class ReferenceKv {
 public:
  ReferenceKv() = default;
  ReferenceKv(std::span<std::byte> pool, const KvGeometry& geometry) : pool_(pool), geometry_(geometry) {}
  const KvGeometry& geometry() const { return geometry_; }

  // k, v: [kv_heads][head_dim]
  void store(int layer, BlockId block, int slot, const float* k, const float* v);
  // Opens positions [0, count) of one head into keys[count][head_dim] and values[count][head_dim].
  struct Opened {
    std::vector<float> keys;
    std::vector<float> values;
  };
  void load(int layer, std::span<const BlockId> blocks, int kv_head, int count, Opened& out) const;

 private:
  // Byte offset of the head's vector of token `slot`; part 0 = K, 1 = V.
  size_t offset(int layer, BlockId block, int part, int kv_head, int slot) const;
  void write(size_t at, const float* values);
  void write_codes(std::byte* to, const float* values) const;
  void read(size_t at, float* values) const;

  std::span<std::byte> pool_;
  KvGeometry geometry_;
};

// out[head_dim] = softmax(scale * q . keys[first..last]) . values, exponentials and sums accurate to float
// rounding.
struct AttendedRange {
  int first = 0;
  int last = 0;  // included
};
void attend(const ReferenceKv::Opened& kv, AttendedRange range, float scale, std::span<const float> q,
            std::span<float> out);

}  // namespace baton::kernels::reference
