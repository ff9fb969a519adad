#include "kernels/logit_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

// CMakeLists.txt says for which instruction sets a loop is compiled beside the build's own.
#ifndef BATON_CLONES
#define BATON_CLONES
#endif

namespace baton::kernels {
namespace {

constexpr float kNotFinite = std::numeric_limits<float>::quiet_NaN();
constexpr size_t kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));

}  // namespace

BATON_CLONES bool block_maxima(std::span<const float> logits, float* maxima) {
  constexpr size_t kBlock = kLogitBlock;
  Ints bad = {};
  const size_t whole = logits.size() / kBlock;
  for (size_t b = 0; b < whole; ++b) {
    const float* x = logits.data() + b * kBlock;
    Floats best;
    std::memcpy(&best, x, sizeof(best));
    for (size_t i = 0; i < kBlock; i += kLanes) {
      Floats v;
      Ints bits;
      std::memcpy(&v, x + i, sizeof(v));
      std::memcpy(&bits, &v, sizeof(bits));
      best = v > best ? v : best;
      bad |= (bits & 0x7f800000) == 0x7f800000;  // exponent all ones
    }
    float max = best[0];
    for (size_t i = 1; i < kLanes; ++i) max = best[i] > max ? best[i] : max;
    maxima[b] = max;
  }
  bool finite = true;
  for (size_t i = 0; i < kLanes; ++i) finite &= bad[i] == 0;
  if (whole * kBlock == logits.size()) return finite;
  float max = logits[whole * kBlock];
  for (const float v : logits.subspan(whole * kBlock)) {
    max = v > max ? v : max;
    finite &= std::isfinite(v);
  }
  maxima[whole] = max;
  return finite;
}

void LogitRows::look_over(int64_t rows, int64_t vocabulary) const {
  for (int64_t r = 0; r < rows; ++r) {
    const LogitRows row = from(r, vocabulary);
    row.look_over_blocks(0, {row.values, static_cast<size_t>(vocabulary)});
  }
}

void LogitRows::look_over_blocks(int64_t first, std::span<const float> logits) const {
  if (maxima == nullptr || block_maxima(logits, maxima + first)) return;
  std::fill_n(maxima + first, logit_blocks(static_cast<int64_t>(logits.size())), kNotFinite);
}

}  // namespace baton::kernels
