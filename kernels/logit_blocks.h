#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace baton::kernels {

// Logits are looked at in blocks of 256: the largest of each tells which blocks a sampler must look into, and
// whoever computes logits says it while they are in its caches.
inline constexpr int64_t kLogitBlock = 256;
inline constexpr int64_t logit_blocks(int64_t logits) { return (logits + kLogitBlock - 1) / kLogitBlock; }

// maxima[b] = the largest of logits[256 b .. 256 b + 255]. False when one of them is infinite or not a
// number. Compiled for several instruction sets, chosen when the program is loaded. Thread: any.
bool block_maxima(std::span<const float> logits, float* maxima);

// Where the logits of a step go, in host memory.
struct LogitRows {
  float* values = nullptr;  // [rows][vocabulary]
  // [rows][logit_blocks(vocabulary)], or nullptr: not wanted. Not numbers when a logit is not finite: of its
  // block, and maybe of others.
  float* maxima = nullptr;

  LogitRows from(int64_t row, int64_t vocabulary) const {
    return {values + row * vocabulary, maxima == nullptr ? nullptr : maxima + row * logit_blocks(vocabulary)};
  }
  // The maxima, if wanted, of values that are there: of all rows, or of some whole blocks of row 0.
  void look_over(int64_t rows, int64_t vocabulary) const;
  void look_over_blocks(int64_t first, std::span<const float> logits) const;
};

}  // namespace baton::kernels
