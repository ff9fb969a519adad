#include "kernels/backend_checks.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/cat.h"
#include "base/check.h"
#include "kernels/dequantize.h"
#include "kernels/quant_block.h"

namespace baton::kernels {

absl::Status check_attention(const AttentionSpec& attention, const RopeSpec& rope) {
  if (attention.heads <= 0 || attention.kv_heads <= 0 || attention.heads % attention.kv_heads != 0)
    return absl::InvalidArgumentError(
        absl::StrCat(attention.heads, " heads do not divide among ", attention.kv_heads, " KV heads"));
  if (attention.head_dim <= 0 || attention.head_dim > 1024)
    return absl::InvalidArgumentError(absl::StrCat("head_dim ", attention.head_dim, ": want 1..1024"));
  if (!std::isfinite(attention.scale) || attention.window < 0)
    return absl::InvalidArgumentError("attention scale or window out of range");
  if (2 * rope.inv_freq.size() > static_cast<size_t>(attention.head_dim))
    return absl::InvalidArgumentError(
        absl::StrCat("rope over ", 2 * rope.inv_freq.size(), " dimensions of ", attention.head_dim));
  for (double f : rope.inv_freq)
    if (!std::isfinite(f)) return absl::InvalidArgumentError("rope frequency is not finite");
  return absl::OkStatus();
}

absl::Status check_linear(const LinearSpec& spec) {
  if (spec.parts.empty()) return absl::InvalidArgumentError("linear without weights");
  int64_t rows = 0;
  for (const WeightView& part : spec.parts) {
    RETURN_IF_ERROR(check_weight(part));
    if (part.cols != spec.parts[0].cols)
      return absl::InvalidArgumentError("parts of a linear differ in columns");
    rows += part.rows;
  }
  if (!spec.bias.empty() && static_cast<int64_t>(spec.bias.size()) != rows)
    return absl::InvalidArgumentError(absl::StrCat("bias of ", spec.bias.size(), " for ", rows, " rows"));
  const int64_t cols = spec.parts[0].cols;
  if (spec.k_shards < 1 || spec.k_shards > 8 || cols % spec.k_shards != 0 ||
      (spec.k_shards > 1 && (cols / spec.k_shards) % 32 != 0))
    return absl::InvalidArgumentError(
        absl::StrCat(cols, " columns do not divide into ", spec.k_shards, " K shards"));
  for (const WeightView& part : spec.parts)
    if (is_quantised(part.type) && has_multipliers(part.type) && (cols / spec.k_shards) % 64 != 0)
      return absl::InvalidArgumentError(cat(traits_of(part.type).name, ", ", cols, " columns in ",
                                            spec.k_shards, " K shards: want multiples of 64"));
  return absl::OkStatus();
}

absl::Status check_embedding(const WeightView& table) {
  if (table.type == DType::kF8E4M3) return absl::InvalidArgumentError("an embedding in F8_E4M3");
  return check_weight(table);
}

absl::Status check_kv(std::span<const std::byte> pool, const KvGeometry& geometry,
                      const AttentionSpec& attention) {
  if (attention.heads == 0) return absl::FailedPreconditionError("attach_kv before set_attention");
  if (geometry.kv_heads != attention.kv_heads || geometry.head_dim != attention.head_dim)
    return absl::InvalidArgumentError(absl::StrCat("KV pool of ", geometry.kv_heads, " x ", geometry.head_dim,
                                                   " for attention of ", attention.kv_heads, " x ",
                                                   attention.head_dim));
  if (geometry.layers <= 0 || geometry.blocks <= 0 || geometry.block_tokens <= 0)
    return absl::InvalidArgumentError("KV pool without layers, blocks or tokens");
  if (pool.size() < geometry.pool_bytes())
    return absl::InvalidArgumentError(
        absl::StrCat("KV pool of ", pool.size(), " bytes, want ", geometry.pool_bytes()));
  return absl::OkStatus();
}

void check_batch(const StepBatch& batch, const KvGeometry& geometry) {
  BATON_CHECK(batch.positions.size() == batch.tokens.size());
  int32_t next = 0;
  for (const SequenceRows& s : batch.sequences) {
    BATON_CHECK(s.first_row == next && s.row_count > 0 && s.first_position >= 0);
    next += s.row_count;
    BATON_CHECK(static_cast<int64_t>(s.blocks.size()) * geometry.block_tokens >=
                s.first_position + s.row_count);
    for (const BlockId block : s.blocks) BATON_CHECK(block.value() < geometry.blocks);
    for (int32_t i = 0; i < s.row_count; ++i)
      BATON_CHECK(s.first_row + i < batch.rows() && batch.positions[s.first_row + i] == s.first_position + i);
  }
  BATON_CHECK(next == batch.rows());
  int32_t previous = -1;
  for (const int32_t row : batch.logit_rows) {
    BATON_CHECK(row > previous && row < batch.rows());
    previous = row;
  }
}

}  // namespace baton::kernels
