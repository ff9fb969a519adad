#pragma once

#include <memory>
#include <span>

#include "kernels/backend.h"

namespace baton::kernels::cpu {

// Rows of the mapped table, opened one by one as they are asked for. Borrows the file's bytes. Immutable.
class TableEmbedding final : public Embedding {
 public:
  static absl::StatusOr<std::unique_ptr<Embedding>> create(const WeightView& table);
  TableEmbedding(const WeightView& table, size_t stride) : table_(table), stride_(stride) {}

  int64_t cols() const { return table_.cols; }
  // `token` must be below the table's rows.
  void look_up(TokenId token, std::span<float> out) const;

 private:
  WeightView table_;
  size_t stride_;  // bytes of a row
};

}  // namespace baton::kernels::cpu
