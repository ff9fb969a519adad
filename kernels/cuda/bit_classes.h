#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace baton::kernels::cuda {

// How algorithms for one product are chosen so that a row's bits do not depend on how many rows there are.
// Algorithms that gave the probe row the same bits are one class; of the classes that have an algorithm for
// every number of rows the fastest one is taken, all of it: tiles may differ by rows, bits may not. Pure and
// deterministic: measurements in, choice out (docs/adr/0019). Thread: any.

// Numbers of rows that take the same algorithm.
struct RowRange {
  int first = 0;
  int last = 0;
  bool operator==(const RowRange&) const = default;
};
// 1, 2-8, 9-16, 17-32, .. by powers of two; the last one ends with most_rows.
std::vector<RowRange> row_ranges(int most_rows);
// What is tried of a range: its ends, and a number that fills no tile. Example 129-256: 129, 193, 256.
std::vector<int> probed_rows(const RowRange& range);

// One algorithm with one number of rows.
struct Trial {
  int algorithm = 0;  // index among the product's
  int rows = 0;
  bool uniform = false;     // the probe row had the same bits wherever it stood
  uint64_t signature = 0;   // of them
  double microseconds = 0;  // median
};

struct BitClass {
  uint64_t signature = 0;
  std::vector<int> algorithms;  // of each range
  // Time over that of the fastest algorithm of any bits: mean over ranges, and the worst range's.
  double slowdown = 0;
  double worst = 0;
};
// `trials`: those that ran, in any order. An algorithm serves a range if it ran with all of probed_rows().
// One whose bits change with the rows, or with the place of a row among them, serves none. Of classes equally
// fast that of the algorithm with the lowest index. kNotFound names the first range that no class reaches.
absl::StatusOr<BitClass> choose_bit_class(std::span<const RowRange> ranges, std::span<const Trial> trials);

}  // namespace baton::kernels::cuda
