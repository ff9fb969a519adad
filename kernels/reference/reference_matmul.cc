#include "kernels/reference/reference_matmul.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace baton::kernels::reference {
namespace {

constexpr int kPanel = 8;
constexpr int kTile = 4;  // rows of x at once
constexpr int kMaxShards = 8;
constexpr int kChain = 32;  // float products before the sum goes to double

using Four [[gnu::vector_size(16)]] = float;

// sums[kTile][kPanel] += chain of products over `length` inputs.
void add_chain(const float* panel, const float* const* x, int64_t length, double* sums) {
  Four acc[kTile][2] = {};
  for (int64_t k = 0; k < length; ++k) {
    Four w[2];
    std::memcpy(w, panel + k * kPanel, sizeof(w));
    for (int t = 0; t < kTile; ++t) {
      acc[t][0] += w[0] * x[t][k];
      acc[t][1] += w[1] * x[t][k];
    }
  }
  for (int t = 0; t < kTile; ++t)
    for (int o = 0; o < kPanel; ++o) sums[t * kPanel + o] += static_cast<double>(acc[t][o / 4][o % 4]);
}

// The tree of docs/adr/0005: cut at the largest power of two below n.
float sum_tree(std::span<const float> parts) {
  if (parts.size() == 1) return parts[0];
  const size_t left = std::bit_floor(parts.size() - 1);
  return sum_tree(parts.first(left)) + sum_tree(parts.subspan(left));
}

}  // namespace

FloatPanels::FloatPanels(int64_t rows, int64_t cols, int k_shards)
    : rows_(rows), cols_(cols), k_shards_(k_shards), panels_((rows + kPanel - 1) / kPanel * kPanel * cols) {
  BATON_CHECK(k_shards >= 1 && k_shards <= kMaxShards && cols % k_shards == 0);
}

void FloatPanels::set_row(int64_t row, std::span<const float> w) {
  BATON_CHECK(row >= 0 && row < rows_ && static_cast<int64_t>(w.size()) == cols_);
  float* lane = panels_.data() + (row / kPanel) * kPanel * cols_ + row % kPanel;
  for (int64_t k = 0; k < cols_; ++k) lane[k * kPanel] = w[k];
}

void FloatPanels::multiply(const float* x, int64_t count, float* y) const {
  // Blocks of rows small enough to stay in the second-level cache while the panels pass by.
  constexpr int64_t kBlock = 64;
  for (int64_t first = 0; first < count; first += kBlock)
    tile(x + first * cols_, std::min(kBlock, count - first), y + first * rows_);
}

void FloatPanels::add_segment(const Tile& tile, int64_t first, int64_t last, double* sums) const {
  for (int64_t k = first; k < last; k += kChain) {
    const float* rows[kTile];  // a short tile repeats its last row
    for (int64_t t = 0; t < kTile; ++t) rows[t] = tile.x + std::min(t, tile.tall - 1) * cols_ + k;
    add_chain(tile.panel + k * kPanel, rows, std::min<int64_t>(kChain, last - k), sums);
  }
}

void FloatPanels::tile(const float* x, int64_t count, float* y) const {
  const int64_t segment = cols_ / k_shards_;
  for (int64_t out = 0; out < rows_; out += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, rows_ - out);
    for (int64_t first = 0; first < count; first += kTile) {
      const Tile tile = {panels_.data() + out * cols_, x + first * cols_,
                         std::min<int64_t>(kTile, count - first)};
      float shards[kTile * kPanel][kMaxShards];
      for (int s = 0; s < k_shards_; ++s) {
        double sums[kTile * kPanel] = {};
        add_segment(tile, s * segment, (s + 1) * segment, sums);
        for (int i = 0; i < kTile * kPanel; ++i) shards[i][s] = static_cast<float>(sums[i]);
      }
      for (int64_t t = 0; t < tile.tall; ++t)
        for (int64_t o = 0; o < width; ++o)
          y[(first + t) * rows_ + out + o] =
              sum_tree(std::span(shards[t * kPanel + o]).first(static_cast<size_t>(k_shards_)));
    }
  }
}

}  // namespace baton::kernels::reference
