#pragma once

#include <memory>

#include "base/status.h"
#include "kernels/cuda/cuda_linear.h"

namespace baton::kernels::cuda {

// y = x W^T by cuBLASLt: numerics "fastest". The algorithm is the library's first choice for the shape, rows
// included, without split-K, so a row's bits may differ between batches: that is why it is not the default.
// bf16 in, float32 sums and results. Thread: the engine's. Errors: what the library refuses, with its status
// number.
class LibraryLinear {
 public:
  virtual ~LibraryLinear() = default;
  // out float [rows][ldo] = (add ? out : 0) + x [rows][ldx] times all packed rows of the layer; no bias.
  struct Product {
    const uint16_t* x;
    int64_t ldx;
    float* out;
    int64_t ldo;
    int rows;
    bool add;
  };
  virtual absl::Status multiply(const CudaLinear& linear, const Product& product, cudaStream_t stream) = 0;
};
absl::StatusOr<std::unique_ptr<LibraryLinear>> open_library_linear();

}  // namespace baton::kernels::cuda
