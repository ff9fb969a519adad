#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/bit_classes.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/product_library.h"

namespace baton::kernels::cuda {

// Runs a library's algorithms on one product with made-up numbers, the same ones everywhere: one probe row
// stands at both ends, in the middle and at the edges of tiles among other rows. Its result is what the
// signature is the hash of, so signatures of other days and numbers of rows may be compared. Weights are kept
// several times over, so that each run reads them from memory and not from a cache. Owns device memory for
// the most rows. Thread: one, with the device current. Errors: the device's; memory that is not there names
// what to lower; a product that has not ended after a minute.
class ProductTrials {
 public:
  static absl::StatusOr<std::unique_ptr<ProductTrials>> make(ProductLibrary& library,
                                                             const ProductShape& shape, int most_rows,
                                                             cudaStream_t stream);
  // Puts the probe row where it belongs among so many rows.
  absl::Status place_probes(int rows);
  // With the rows of place_probes(). kUnimplemented: the algorithm is not for them.
  absl::StatusOr<Trial> look(const Algorithm& algorithm);
  // The same with its time: the median of rounds of about a millisecond.
  absl::StatusOr<Trial> measure(const Algorithm& algorithm, int rounds);

 private:
  ProductTrials(ProductLibrary& library, const ProductShape& shape, cudaStream_t stream)
      : library_(library), shape_(shape), stream_(stream) {}
  absl::Status fill(int most_rows);
  absl::Status write_row(int row, bool probe);
  absl::Status run(const Algorithm& algorithm);
  absl::StatusOr<double> time(const Algorithm& algorithm, int runs);
  absl::Status wait();

  ProductLibrary& library_;
  const ProductShape shape_;
  const cudaStream_t stream_;
  DeviceBuffer weights_, x_, out_;
  std::vector<uint16_t> probe_;
  std::vector<std::vector<uint16_t>> others_;
  std::vector<int> places_;  // of the probe row
  int rows_ = 0;
  size_t copies_ = 1, next_copy_ = 0;
};

}  // namespace baton::kernels::cuda
