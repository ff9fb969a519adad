#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/product_shape.h"

namespace baton::kernels::cuda {

// A library of matrix products: cuBLASLt (cublas_products.cc). Its algorithms take split-K and other sums in
// an order of the moment out of the choice as far as the library can be told so; what is left is for
// bit_classes.h. Thread: the engine's. Errors: what the library refuses, with its status number.
class ProductLibrary {
 public:
  virtual ~ProductLibrary() = default;
  // Of the library and of the driver, whose compiler its code may go through.
  struct Versions {
    int64_t library = 0;
    int64_t driver = 0;
  };
  virtual Versions versions() const = 0;
  // What it proposes for so many rows, at most `most`, the one that it thinks fastest first; never empty.
  virtual absl::StatusOr<std::vector<Algorithm>> propose(const ProductShape& shape, int rows, int most) = 0;
  struct Operands {
    const uint16_t* weights;
    const uint16_t* x;
    float* out;
    int rows;
  };
  // Enqueues the product. kUnimplemented: the algorithm is not for these rows.
  virtual absl::Status multiply(const ProductShape& shape, const Algorithm& algorithm,
                                const Operands& operands, cudaStream_t stream) = 0;
};
absl::StatusOr<std::unique_ptr<ProductLibrary>> open_product_library();

}  // namespace baton::kernels::cuda
