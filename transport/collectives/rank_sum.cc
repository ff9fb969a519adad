#include "transport/collectives/rank_sum.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace baton {
namespace {

constexpr size_t kBlock = 256;  // floats: partial sums of a block stay in the first-level cache

void add_two(const float* __restrict a, const float* __restrict b, float* __restrict out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void add_three(const float* __restrict a, const float* __restrict b, const float* __restrict c,
               float* __restrict out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + c[i];
}

void add_four(const float* const* p, float* __restrict out, size_t n) {
  const float* __restrict a = p[0], * __restrict b = p[1], * __restrict c = p[2], * __restrict d = p[3];
  for (size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}

// One block of at most kBlock floats that begins at `from`.
void block_sum(std::span<const float* const> parts, size_t from, float* out, size_t n) {
  switch (parts.size()) {
    case 1:
      std::copy_n(parts[0] + from, n, out);
      return;
    case 2:
      add_two(parts[0] + from, parts[1] + from, out, n);
      return;
    case 3:
      add_three(parts[0] + from, parts[1] + from, parts[2] + from, out, n);
      return;
    case 4: {
      const float* at[4] = {parts[0] + from, parts[1] + from, parts[2] + from, parts[3] + from};
      add_four(at, out, n);
      return;
    }
    default:
      break;
  }
  const size_t split = std::bit_floor(parts.size() - 1);
  float left[kBlock];
  float right[kBlock];
  block_sum(parts.first(split), from, left, n);
  block_sum(parts.subspan(split), from, right, n);
  add_two(left, right, out, n);
}

}  // namespace

void rank_sum(std::span<const float* const> parts, float* out, size_t count) {
  BATON_CHECK(!parts.empty() && parts.size() <= 64);
  if (parts.size() <= 4) return block_sum(parts, 0, out, count);
  for (size_t from = 0; from < count; from += kBlock)
    block_sum(parts, from, out + from, std::min(kBlock, count - from));
}

}  // namespace baton
