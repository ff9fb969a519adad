#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baton::kernels::reference {

// A float32 matrix in panels of 8 output rows, [rows/8][cols][8] (the last panel padded with zeros), so that
// the inner loop runs over outputs. Sums are chains of at most 32 float products, added up in double: the
// rounding error is that of one float rounding per 32 inputs. Each of the k_shards segments of cols is summed
// by itself, rounded to float, and they meet in the tree of docs/adr/0005: a rank that holds some segments
// has the bits of one that holds them all.
class FloatPanels {
 public:
  FloatPanels(int64_t rows, int64_t cols, int k_shards = 1);
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  size_t bytes() const { return panels_.size() * sizeof(float); }

  // w[cols] becomes output row `row`.
  void set_row(int64_t row, std::span<const float> w);

  // y[count][rows] = x[count][cols] times the matrix, transposed.
  void multiply(const float* x, int64_t count, float* y) const;

 private:
  void tile(const float* x, int64_t count, float* y) const;
  struct Tile {
    const float* panel;
    const float* x;  // of the tile's first row
    int64_t tall;    // rows
  };
  // sums[row][output] of the tile over columns [first, last)
  void add_segment(const Tile& tile, int64_t first, int64_t last, double* sums) const;

  int64_t rows_;
  int64_t cols_;
  int k_shards_;
  std::vector<float> panels_;
};

}  // namespace baton::kernels::reference
