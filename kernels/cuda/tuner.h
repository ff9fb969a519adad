#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "kernels/cuda/algorithm_table.h"
#include "kernels/cuda/product_library.h"

namespace baton::kernels::cuda {

// What `baton tune` does on the device: of each product, the algorithms that the library proposes for all
// numbers of rows up to most_rows are run with each of them (product_trials.h), and the fastest class of
// equal bits is kept (bit_classes.h). `said` hears a line for each product: how much the choice costs against
// the fastest algorithms. Thread: one, with the device current. Errors: the device's and the library's;
// kNotFound when a product has no class for all rows (numerics bf16dot does without).
struct TuneJob {
  std::vector<ProductShape> products;
  int most_rows = 0;
  int proposals = 12;  // for each number of rows
  int rounds = 5;      // in which an algorithm is timed
};
absl::StatusOr<std::vector<TunedProduct>> tune(ProductLibrary& library, const TuneJob& job,
                                               cudaStream_t stream,
                                               absl::FunctionRef<void(std::string_view)> said);

// Whether the algorithms of a table still compute the bits that they had: with 1 row, some, and the most.
// kFailedPrecondition when not.
absl::Status check_bits(ProductLibrary& library, const TunedProduct& product, cudaStream_t stream);

}  // namespace baton::kernels::cuda
