#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/product_shape.h"

namespace baton::kernels::cuda {

// What algorithms were tried on: elsewhere they may be other code, or none.
struct TunedOn {
  std::string device;  // "NVIDIA H200"
  int capability = 0;
  int processors = 0;
  int64_t library = 0;  // cublasLtGetVersion()
  int64_t driver = 0;   // cudaDriverGetVersion()
  bool operator==(const TunedOn&) const = default;
  std::string text() const;
};

// The algorithms of one product: rows up to `most_rows` (and beyond those of the entry before) take this one.
// All have the same bits: `signature` is the hash of a row that every one of them computed
// (product_trials.h).
struct TunedRows {
  int most_rows = 0;
  Algorithm algorithm;
  bool operator==(const TunedRows&) const = default;
};
struct TunedProduct {
  ProductShape shape;
  uint64_t signature = 0;
  std::vector<TunedRows> rows;  // ascending, at least one
  bool operator==(const TunedProduct&) const = default;
};

// Which algorithm multiplies what: what `baton tune` writes and `numerics: invariant` computes with. A plain
// value. As a file: text, a line for each product and each range of rows, the last line has a checksum.
// Thread: any. Errors: "FILE:LINE: want ..", each with what to do.
struct AlgorithmTable {
  TunedOn tuned_on;
  std::vector<TunedProduct> products;
  bool operator==(const AlgorithmTable&) const = default;

  const TunedProduct* find(const ProductShape& shape) const;
  // That every product has an algorithm for; 0 in an empty table.
  int most_rows() const;
  // 16 hexadecimal digits, equal when all products have the same bits: part of the numerics id.
  std::string bits() const;
  // kFailedPrecondition when it is of another device, driver or library.
  absl::Status check(const TunedOn& here) const;
};
// Null when there is none for so many.
const Algorithm* algorithm_for(const TunedProduct& product, int rows);

std::string table_text(const AlgorithmTable& table);
absl::StatusOr<AlgorithmTable> parse_table(const std::string& file, std::string_view text);
absl::StatusOr<AlgorithmTable> read_table(const std::string& file);

}  // namespace baton::kernels::cuda
