#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/kernel_arguments.h"

namespace baton::kernels::cuda {

// Rows of 16 in strips, every row filled with zeros up to a multiple of 64 columns, all weights rounded to
// bf16 (from F32, F16, BF16 and the quantised formats). A layer of two equal parts (gate and up) is
// interleaved: 8 rows of the one, 8 of the other, so that a thread holds both and can finish silu(gate) * up.
// Example: gate and up of 1,536 x 576 are 192 strips, 3,072 x 576 x 2 B = 3.4 MiB.
struct PackedShape {
  int rows = 0;
  int cols = 0;
  int strips = 0;
  int ld = 0;
  bool interleaved = false;
  size_t bytes() const { return size_t{32} * strips * ld; }
};
PackedShape packed_shape(const LinearSpec& spec);
// Row `row` of the parts, taken together, as packed row; the row it becomes.
int packed_row(const PackedShape& shape, int row);

// Packed weights in device memory, shared by an embedding and a head of the same table.
using SharedWeights = std::shared_ptr<const DeviceBuffer>;
absl::StatusOr<SharedWeights> pack_weights(const LinearSpec& spec, const PackedShape& shape);

class CudaLinear final : public Linear {
 public:
  CudaLinear(const PackedShape& shape, SharedWeights weights, DeviceBuffer bias)
      : shape(shape), weights(std::move(weights)), bias(std::move(bias)) {}
  int64_t rows() const override { return shape.rows; }
  int64_t cols() const override { return shape.cols; }
  size_t bytes() const override { return shape.bytes(); }
  // The layer's part of the arguments.
  LinearArgs arguments() const;

  const PackedShape shape;
  const SharedWeights weights;
  const DeviceBuffer bias;  // float [rows], or nothing
};

class CudaEmbedding final : public Embedding {
 public:
  CudaEmbedding(const PackedShape& shape, SharedWeights table) : shape(shape), table(std::move(table)) {}
  const PackedShape shape;
  const SharedWeights table;
};

}  // namespace baton::kernels::cuda
