#include "kernels/cpu/cpu_embedding.h"

#include "base/check.h"
#include "kernels/backend_checks.h"
#include "kernels/dequantize.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::cpu {

absl::StatusOr<std::unique_ptr<Embedding>> TableEmbedding::create(const WeightView& table) {
  RETURN_IF_ERROR(check_embedding(table));
  return std::make_unique<TableEmbedding>(table, row_stride(table));
}

void TableEmbedding::look_up(TokenId token, std::span<float> out) const {
  BATON_CHECK(token >= 0 && token < table_.rows, "token outside the vocabulary");
  dequantize_row(table_.type, table_.data + token * stride_, out);
}

}  // namespace baton::kernels::cpu
