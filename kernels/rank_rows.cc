#include <algorithm>

#include "kernels/backend.h"

// What Backend does by default with rows that several ranks made together.
namespace baton::kernels {

void Backend::add_rows_on_host(const RowSum& sum) {
  for (int64_t r = 0; r < sum.rows; ++r) {
    const float* y = sum.y + r * sum.width;
    float* residual = sum.residual + r * sum.width;
    if (sum.bias.empty()) {
      for (int64_t i = 0; i < sum.width; ++i) residual[i] += y[i];
    } else {
      for (int64_t i = 0; i < sum.width; ++i) residual[i] += y[i] + sum.bias[i];
    }
  }
}

void Backend::join_rows_on_host(const RowParts& parts) {
  for (int64_t p = 0; p < parts.parts; ++p)
    for (int64_t r = 0; r < parts.rows; ++r)
      std::copy_n(parts.gathered + (p * parts.rows + r) * parts.width, parts.width,
                  parts.out + (r * parts.parts + p) * parts.width);
}

}  // namespace baton::kernels
