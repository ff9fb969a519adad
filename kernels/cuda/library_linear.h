#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/algorithm_table.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/product_library.h"

namespace baton::kernels::cuda {

// y = x W^T by cuBLASLt. Numerics "fastest": the library's first choice for the shape, rows included, so a
// row's bits may differ between batches. Numerics "invariant": the algorithms of a table, which have the same
// bits for all rows (tuner.h). bf16 in, float32 sums and results. Thread: the engine's. Errors: what the
// library refuses, with its status number; of a table, what is not in it.
class LibraryLinear {
 public:
  static absl::StatusOr<std::unique_ptr<LibraryLinear>> open_fastest();
  // The table was made on this device, with this library.
  static absl::StatusOr<std::unique_ptr<LibraryLinear>> open_invariant(const std::string& table,
                                                                       const DeviceProperties& device);
  LibraryLinear(std::unique_ptr<ProductLibrary> library, std::optional<AlgorithmTable> table)
      : library_(std::move(library)), table_(std::move(table)) {}

  // Before a layer is used. Of a table: its products are there, and have the bits that they had.
  absl::Status add(const LinearSpec& spec, cudaStream_t stream);
  // out float [rows][ldo] = (add ? out : 0) + x [rows][ldx] times all packed rows of the layer; no bias.
  struct Product {
    const uint16_t* x;
    int64_t ldx;
    float* out;
    int64_t ldo;
    int rows;
    bool add;
  };
  absl::Status multiply(const CudaLinear& linear, const Product& product, cudaStream_t stream);
  // Part of the numerics id; empty without a table.
  std::string bits() const { return table_ ? table_->bits() : ""; }

 private:
  absl::StatusOr<Algorithm> algorithm(const ProductShape& shape, int rows);

  std::unique_ptr<ProductLibrary> library_;
  std::optional<AlgorithmTable> table_;
  std::set<ProductShape> checked_;
  std::map<std::pair<ProductShape, int>, Algorithm> chosen_;  // without a table
};

// The products that a step may ask a library for with these weights (CudaBackend): their rows of x come from
// a norm, or are what another kernel stored in bf16 halves of floats.
std::vector<ProductShape> products_of(const LinearSpec& spec);
TunedOn describe_device(const DeviceProperties& device, const ProductLibrary& library);

}  // namespace baton::kernels::cuda
