#include "kernels/cpu/cpu_embedding.h"

#include "base/check.h"
#include "kernels/dequantize.h"

namespace baton::kernels::cpu {

absl::StatusOr<std::unique_ptr<Embedding>> TableEmbedding::create(const WeightView& table) {
  RETURN_IF_ERROR(check_weight(table));
  ASSIGN_OR_RETURN(const size_t stride, row_bytes(table.type, table.cols));
  return std::make_unique<TableEmbedding>(table, stride);
}

void TableEmbedding::look_up(TokenId token, std::span<float> out) const {
  BATON_CHECK(token >= 0 && token < table_.rows, "token outside the vocabulary");
  dequantize_row(table_.type, table_.data + token * stride_, out);
}

}  // namespace baton::kernels::cpu
