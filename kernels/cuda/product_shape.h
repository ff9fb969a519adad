#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "base/cat.h"

namespace baton::kernels::cuda {

// A product that a library is asked for, in all but its rows: out[rows][n] = x[rows][k] W[n][k]^T, or added
// to what stands in out. bf16 in, float32 sums and results; ld = distance of rows in elements.
struct ProductShape {
  int n = 0;
  int k = 0;
  int64_t ldw = 0;
  int64_t ldx = 0;
  int64_t ldo = 0;
  bool add = false;
  auto operator<=>(const ProductShape&) const = default;
  std::string text() const { return cat(n, " x ", k, add ? ", added" : ""); }
};

// One algorithm of cuBLASLt, in its own words: they mean the same to the same version of the library.
struct Algorithm {
  std::array<uint64_t, 8> words{};
  auto operator<=>(const Algorithm&) const = default;
};

}  // namespace baton::kernels::cuda
