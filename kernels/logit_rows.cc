#include "kernels/logit_rows.h"

#include <algorithm>
#include <numeric>

namespace baton::kernels {

StepBatch keep_logit_rows(const StepBatch& batch, std::span<const RowTensor> tensors,
                          std::vector<int32_t>& identity) {
  const size_t count = batch.logit_rows.size();
  for (const RowTensor& tensor : tensors) {
    for (size_t i = 0; i < count; ++i) {
      // Ascending, so a row is never overwritten before it has moved.
      const float* from = tensor.values + batch.logit_rows[i] * tensor.width;
      if (batch.logit_rows[i] != static_cast<int32_t>(i))
        std::copy_n(from, tensor.width, tensor.values + static_cast<int64_t>(i) * tensor.width);
    }
  }
  if (identity.size() < count) {
    identity.resize(count);
    std::iota(identity.begin(), identity.end(), 0);
  }
  return {.tokens = batch.tokens.first(count),
          .positions = batch.positions.first(count),
          .logit_rows = std::span<const int32_t>(identity).first(count)};
}

}  // namespace baton::kernels
