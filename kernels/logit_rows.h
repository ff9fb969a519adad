#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace baton::kernels {

// What Backend::keep_logit_rows does where activations are host memory: moves the logit rows of each tensor
// to its front and returns the batch that is left, in which row i is logit row i. `identity` holds its
// logit_rows: it must live as long as the step and grows to the largest one seen.
// Example: 4 rows, logit_rows {1, 3}: rows 1 and 3 become 0 and 1, logit_rows {0, 1}.
StepBatch keep_logit_rows(const StepBatch& batch, std::span<const RowTensor> tensors,
                          std::vector<int32_t>& identity);

}  // namespace baton::kernels
