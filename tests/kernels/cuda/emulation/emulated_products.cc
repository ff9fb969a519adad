// In place of kernels/cuda/cublas_products.cc: a library of products on the emulated device whose algorithms
// differ as real ones do. Small and large tiles sum in one order, each for its rows; two halves are another
// order; and one splits the sum by how many rows there are, one by where a row stands.
#include "kernels/cuda/product_library.h"
#include "kernels/float16.h"
#include "tests/kernels/cuda/emulation/emulated_runtime.h"

namespace baton::kernels::cuda {
namespace {

enum Kind : uint64_t { kByRows, kByPlace, kHalves, kSmallTiles, kLargeTiles, kKinds };

bool runs_with(uint64_t kind, int rows) {
  switch (kind) {
    case kHalves:
      return rows <= 32;
    case kSmallTiles:
      return rows <= 64;
    case kLargeTiles:
      return rows > 16;
    default:
      return kind < kKinds;
  }
}

int parts_of(uint64_t kind, int rows, int row) {
  if (kind == kByRows) return rows < 3 ? 4 : rows < 40 ? 3 : 1;
  if (kind == kByPlace) return row % 2 + 1;
  return kind == kHalves ? 2 : 1;
}

// The sum of each part ascends, and so do the parts.
float dot(const uint16_t* w, const uint16_t* x, int k, int parts) {
  float total = 0;
  for (int part = 0; part < parts; ++part) {
    float sum = 0;
    for (int i = k * part / parts; i < k * (part + 1) / parts; ++i)
      sum += bfloat16_to_float(w[i]) * bfloat16_to_float(x[i]);
    total += sum;
  }
  return total;
}

class EmulatedProducts final : public ProductLibrary {
 public:
  Versions versions() const override { return {7, 13000}; }
  absl::StatusOr<std::vector<Algorithm>> propose(const ProductShape&, int rows, int most) override {
    std::vector<Algorithm> out;
    for (uint64_t kind = 0; kind < kKinds && static_cast<int>(out.size()) < most; ++kind)
      if (runs_with(kind, rows)) out.push_back({{kind}});
    return out;
  }
  absl::Status multiply(const ProductShape& shape, const Algorithm& algorithm, const Operands& p,
                        cudaStream_t stream) override {
    const uint64_t kind = algorithm.words[0];
    if (!runs_with(kind, p.rows)) return absl::UnimplementedError("not for these rows");
    emulated::enqueue(stream, [shape, kind, p] {
      for (int row = 0; row < p.rows; ++row)
        for (int n = 0; n < shape.n; ++n) {
          const float y =
              dot(p.weights + n * shape.ldw, p.x + row * shape.ldx, shape.k, parts_of(kind, p.rows, row));
          float& out = p.out[row * shape.ldo + n];
          out = shape.add ? out + y : y;
        }
    });
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<ProductLibrary>> open_product_library() {
  return std::make_unique<EmulatedProducts>();
}

}  // namespace baton::kernels::cuda
