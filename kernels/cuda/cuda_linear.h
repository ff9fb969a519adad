#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/kernel_arguments.h"
#include "kernels/float8.h"

namespace baton::kernels::cuda {

// Rows of 16 in strips, every row filled with zeros up to a multiple of 64 columns, all weights rounded to
// bf16 (from F32, F16, BF16 and the quantised formats). A layer of two equal parts (gate and up) is
// interleaved: 8 rows of the one, 8 of the other, so that a thread holds both and can finish silu(gate) * up.
// Example: gate and up of 1,536 x 576 are 192 strips, 3,072 x 576 x 2 B = 3.4 MiB.
// In fp8 a weight is a byte (e4m3) times the scale of its 128 x 128 block, rows of blocks being counted in
// each part; rows are filled up to 128 columns, and behind the bytes stand the scales, two for each strip
// (rows 0-7, 8-15): [ld / 128][strips][2] floats.
struct PackedShape {
  int rows = 0;
  int cols = 0;
  int strips = 0;
  int ld = 0;
  bool interleaved = false;
  bool fp8 = false;
  size_t matrix_bytes() const { return size_t{fp8 ? 16u : 32u} * strips * ld; }
  size_t bytes() const { return matrix_bytes() + (fp8 ? size_t{8} * strips * (ld / kFp8Block) : 0); }
};
enum class PackedType : uint8_t { kBrain, kFp8 };
PackedShape packed_shape(const LinearSpec& spec, PackedType type = PackedType::kBrain);
// Row `row` of the parts, taken together, as packed row; the row it becomes.
int packed_row(const PackedShape& shape, int row);

// What the device is to hold. Weights that are quantised here: scale = m / 448, byte = round(w * (448 / m)),
// m = the block's largest magnitude (2^-64 at least). Those of an fp8 checkpoint keep their numbers and
// scales. Errors: parts whose rows are no multiple of 8, or begin between two; a number that is none.
std::vector<std::byte> pack_brain(const LinearSpec& spec, const PackedShape& shape);
absl::StatusOr<std::vector<std::byte>> pack_fp8(const LinearSpec& spec, const PackedShape& shape);

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
