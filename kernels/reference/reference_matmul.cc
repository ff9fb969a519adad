#include "kernels/reference/reference_matmul.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace baton::kernels::reference {
namespace {

constexpr int kPanel = 8;
constexpr int kTile = 4;    // rows of x at once
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

}  // namespace

FloatPanels::FloatPanels(int64_t rows, int64_t cols)
    : rows_(rows), cols_(cols), panels_((rows + kPanel - 1) / kPanel * kPanel * cols) {}

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

void FloatPanels::tile(const float* x, int64_t count, float* y) const {
  for (int64_t out = 0; out < rows_; out += kPanel) {
    const float* panel = panels_.data() + out * cols_;
    const int64_t width = std::min<int64_t>(kPanel, rows_ - out);
    for (int64_t first = 0; first < count; first += kTile) {
      const int64_t tall = std::min<int64_t>(kTile, count - first);
      double sums[kTile * kPanel] = {};
      for (int64_t k = 0; k < cols_; k += kChain) {
        const float* rows[kTile];  // a short tile repeats its last row
        for (int64_t t = 0; t < kTile; ++t) rows[t] = x + (first + std::min(t, tall - 1)) * cols_ + k;
        add_chain(panel + k * kPanel, rows, std::min<int64_t>(kChain, cols_ - k), sums);
      }
      for (int64_t t = 0; t < tall; ++t)
        for (int64_t o = 0; o < width; ++o)
          y[(first + t) * rows_ + out + o] = static_cast<float>(sums[t * kPanel + o]);
    }
  }
}

}  // namespace baton::kernels::reference
