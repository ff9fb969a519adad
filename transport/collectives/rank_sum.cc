#include "transport/collectives/rank_sum.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace baton {
namespace {

constexpr size_t kBlock = 256;  // floats: partial sums of a block stay in the first-level cache

// Element by element: as wide as the machine can, the bits are the same. The loops are written once and
// compiled for each width.
#define BATON_LOOP inline __attribute__((always_inline)) void
BATON_LOOP loop_two(const float* __restrict a, const float* __restrict b, float* __restrict out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}
BATON_LOOP loop_three(const float* const* p, float* __restrict out, size_t n) {
  const float* __restrict a = p[0], * __restrict b = p[1], * __restrict c = p[2];
  for (size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + c[i];
}
BATON_LOOP loop_four(const float* const* p, float* __restrict out, size_t n) {
  const float* __restrict a = p[0], * __restrict b = p[1], * __restrict c = p[2], * __restrict d = p[3];
  for (size_t i = 0; i < n; ++i) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
}
BATON_LOOP loop_few(const float* const* p, size_t parts, float* out, size_t n) {
  if (parts == 2) return loop_two(p[0], p[1], out, n);
  if (parts == 3) return loop_three(p, out, n);
  loop_four(p, out, n);
}
#undef BATON_LOOP

using AddFew = void (*)(const float* const* p, size_t parts, float* out, size_t n);

__attribute__((target("avx512f,prefer-vector-width=512"))) void add_few_512(const float* const* p,
                                                                            size_t parts, float* out,
                                                                            size_t n) {
  loop_few(p, parts, out, n);
}
__attribute__((target("avx2"))) void add_few_256(const float* const* p, size_t parts, float* out, size_t n) {
  loop_few(p, parts, out, n);
}
void add_few_128(const float* const* p, size_t parts, float* out, size_t n) { loop_few(p, parts, out, n); }

AddFew widest() {
  return __builtin_cpu_supports("avx512f") ? add_few_512
         : __builtin_cpu_supports("avx2")  ? add_few_256
                                           : add_few_128;
}

// Two, three or four parts.
const AddFew add_few = widest();

// One block of at most kBlock floats that begins at `from`.
void block_sum(std::span<const float* const> parts, size_t from, float* out, size_t n) {
  if (parts.size() == 1) {
    std::copy_n(parts[0] + from, n, out);
    return;
  }
  if (parts.size() <= 4) {
    const float* at[4] = {};
    for (size_t i = 0; i < parts.size(); ++i) at[i] = parts[i] + from;
    return add_few(at, parts.size(), out, n);
  }
  const size_t split = std::bit_floor(parts.size() - 1);
  float left[kBlock];
  float right[kBlock];
  block_sum(parts.first(split), from, left, n);
  block_sum(parts.subspan(split), from, right, n);
  const float* halves[2] = {left, right};
  add_few(halves, 2, out, n);
}

}  // namespace

void rank_sum(std::span<const float* const> parts, float* out, size_t count) {
  BATON_CHECK(!parts.empty() && parts.size() <= 64);
  if (parts.size() <= 4) return block_sum(parts, 0, out, count);
  for (size_t from = 0; from < count; from += kBlock)
    block_sum(parts, from, out + from, std::min(kBlock, count - from));
}

}  // namespace baton
