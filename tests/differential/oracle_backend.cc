#include "tests/differential/oracle_backend.h"

#include <algorithm>

#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/logit_rows.h"
#include "kernels/quant_block.h"

namespace baton::kernels {
namespace {

class OracleLinear final : public Linear {
 public:
  explicit OracleLinear(const LinearSpec& s) : spec(s) {}
  int64_t rows() const override {
    int64_t sum = 0;
    for (const WeightView& part : spec.parts) sum += part.rows;
    return sum;
  }
  int64_t cols() const override { return spec.parts[0].cols; }
  size_t bytes() const override { return 0; }
  LinearSpec spec;
};

class OracleEmbedding final : public Embedding {
 public:
  explicit OracleEmbedding(const WeightView& view) : table(view) {}
  WeightView table;
};

std::vector<float> linear_row(const Linear& linear, std::span<const float> x, bool brain_dots) {
  const LinearSpec& spec = static_cast<const OracleLinear&>(linear).spec;
  std::vector<uint16_t> rounded;
  for (const float v : x) rounded.push_back(float_to_bfloat16(v));
  std::vector<float> out;
  for (const WeightView& part : spec.parts) {
    const contract::QuantisedRow codes =
        is_quantised(part.type) ? contract::quantise(x) : contract::QuantisedRow{};
    for (int64_t r = 0; r < part.rows; ++r) {
      if (is_quantised(part.type))
        out.push_back(contract::linear_quantised(part, r, codes, spec.k_shards));
      else if (brain_dots && part.type == DType::kBF16)
        out.push_back(contract::linear_brain(part, r, rounded, spec.k_shards));
      else
        out.push_back(contract::linear_float(part, r, x, spec.k_shards));
    }
  }
  for (size_t i = 0; i < spec.bias.size(); ++i) out[i] = out[i] + spec.bias[i];
  return out;
}

std::vector<float> normed(const NormWeights& norm, const float* x) {
  std::vector<float> out(norm.weight.size());
  contract::rms_norm({x, out.size()}, norm.weight, norm.eps, out);
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Linear>> OracleBackend::make_linear(const LinearSpec& spec) {
  return std::make_unique<OracleLinear>(spec);
}

absl::StatusOr<std::unique_ptr<Embedding>> OracleBackend::make_embedding(const WeightView& table) {
  return std::make_unique<OracleEmbedding>(table);
}

absl::Status OracleBackend::set_attention(const AttentionSpec& attention, const RopeSpec& rope) {
  attention_ = attention;
  rope_ = rope;
  return absl::OkStatus();
}

absl::Status OracleBackend::attach_kv(std::span<std::byte>, const KvGeometry& geometry) {
  geometry_ = geometry;
  pages_.assign(geometry.layers * geometry.blocks * geometry.kv_heads, {});
  return absl::OkStatus();
}

float* OracleBackend::allocate(size_t floats) {
  return memory_.emplace_back(std::make_unique<std::vector<float>>(floats))->data();
}

OracleBackend::Page& OracleBackend::page(int layer, BlockId block, int kv_head) {
  Page& p = pages_[(layer * geometry_.blocks + block.value()) * geometry_.kv_heads + kv_head];
  p.keys.resize(geometry_.block_tokens * geometry_.head_dim);
  p.values.resize(geometry_.block_tokens * geometry_.head_dim);
  p.key_scales.resize(geometry_.block_tokens);
  p.value_scales.resize(geometry_.block_tokens);
  return p;
}

float OracleBackend::rounded(float value) const {
  if (geometry_.type == KvType::kBF16) return bfloat16_to_float(float_to_bfloat16(value));
  return geometry_.type == KvType::kF16 ? half_to_float(float_to_half(value)) : value;
}

void OracleBackend::embed(const Embedding& table, float* out) {
  const WeightView& view = static_cast<const OracleEmbedding&>(table).table;
  for (TokenId token : batch_.tokens) {
    dequantize_row(view.type, view.data + token * row_bytes(view.type, view.cols).value(),
                   {out, static_cast<size_t>(view.cols)});
    out += view.cols;
  }
}

void OracleBackend::norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) {
  for (int32_t r = 0; r < batch_.rows(); ++r)
    std::ranges::copy(linear_row(linear, normed(norm, x + r * linear.cols()), brain_dots_),
                      out + r * linear.rows());
}

void OracleBackend::linear_add(const Linear& linear, const float* x, float* residual) {
  for (int32_t r = 0; r < batch_.rows(); ++r) {
    const std::vector<float> y =
        linear_row(linear, {x + r * linear.cols(), static_cast<size_t>(linear.cols())}, brain_dots_);
    for (size_t i = 0; i < y.size(); ++i) residual[r * y.size() + i] = residual[r * y.size() + i] + y[i];
  }
}

void OracleBackend::linear_part(const Linear& linear, const float* x, float* out) {
  for (int32_t r = 0; r < batch_.rows(); ++r) {
    const std::vector<float> y =
        linear_row(linear, {x + r * linear.cols(), static_cast<size_t>(linear.cols())}, brain_dots_);
    std::ranges::copy(y, out + r * linear.rows());
  }
}

void OracleBackend::gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) {
  const int64_t width = gate_up.rows() / 2;
  for (int32_t r = 0; r < batch_.rows(); ++r) {
    const std::vector<float> h = linear_row(gate_up, normed(norm, x + r * gate_up.cols()), brain_dots_);
    for (int64_t i = 0; i < width; ++i) out[r * width + i] = contract::silu(h[i]) * h[width + i];
  }
}

void OracleBackend::keep_logit_rows(std::span<const RowTensor> tensors) {
  batch_ = kernels::keep_logit_rows(batch_, tensors, kept_rows_);
}

void OracleBackend::head(const NormWeights& norm, const Linear& linear, const float* x,
                         const LogitRows& out) {
  float* logits = out.values;
  for (const int32_t row : batch_.logit_rows) {
    std::ranges::copy(linear_row(linear, normed(norm, x + row * linear.cols()), brain_dots_), logits);
    logits += linear.rows();
  }
  out.look_over(static_cast<int64_t>(batch_.logit_rows.size()), linear.rows());
}

void OracleBackend::rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) {
  const size_t dim = attention_.head_dim;
  const int all = attention_.heads + 2 * attention_.kv_heads;
  for (const SequenceRows& s : batch_.sequences) {
    for (int i = 0; i < s.row_count; ++i) {
      const int position = s.first_position + i;
      std::vector<contract::Rotation> rotations;
      for (const double f : rope_.inv_freq)
        rotations.push_back(contract::rotation(position, f, rope_.magnitude));
      for (int h = 0; h < all; ++h) {
        const std::span<float> head(qkv + ((s.first_row + i) * all + h) * dim, dim);
        const NormWeights* norm = h < attention_.heads ? q_norm : k_norm;
        if (h < attention_.heads + attention_.kv_heads) {
          if (norm != nullptr) contract::rms_norm(head, norm->weight, norm->eps, head);
          contract::rotate(head, rotations, rope_.interleaved);
        }
        if (h < attention_.heads) continue;
        const int kv_head = (h - attention_.heads) % attention_.kv_heads;
        Page& p = page(layer, s.blocks[position / geometry_.block_tokens], kv_head);
        const bool key = h < attention_.heads + attention_.kv_heads;
        std::vector<float>& to = key ? p.keys : p.values;
        if (geometry_.type == KvType::kInt8) {
          const contract::QuantisedHead codes = contract::quantise_head(head);
          (key ? p.key_scales : p.value_scales)[position % geometry_.block_tokens] = codes.scale;
          std::ranges::copy(codes.codes, to.begin() + position % geometry_.block_tokens * dim);
          continue;
        }
        for (size_t d = 0; d < dim; ++d) to[position % geometry_.block_tokens * dim + d] = rounded(head[d]);
      }
    }
  }
}

OracleBackend::Page OracleBackend::gather(int layer, const SequenceRows& sequence, int kv_head) {
  Page all;
  const auto append = [](std::vector<float>& to, const std::vector<float>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const BlockId block : sequence.blocks) {
    const Page& p = page(layer, block, kv_head);
    append(all.keys, p.keys);
    append(all.values, p.values);
    append(all.key_scales, p.key_scales);
    append(all.value_scales, p.value_scales);
  }
  return all;
}

void OracleBackend::attend(const Page& kv, int last, std::span<const float> q, std::span<float> out) const {
  const int first = attention_.window > 0 ? std::max(0, last - attention_.window + 1) : 0;
  if (geometry_.type == KvType::kInt8) {
    const std::vector<int8_t> keys(kv.keys.begin(), kv.keys.end()),
        values(kv.values.begin(), kv.values.end());
    contract::attend_codes(q, {keys, values, kv.key_scales, kv.value_scales, first, last}, attention_.scale,
                           out);
  } else if (brain_dots_ && geometry_.type == KvType::kBF16) {
    contract::attend_brain(q, {kv.keys, kv.values, first, last}, attention_.scale, out);
  } else {
    contract::attend(q, {kv.keys, kv.values, first, last}, attention_.scale, out);
  }
}

void OracleBackend::attention(int layer, const float* qkv, float* out) {
  const size_t dim = attention_.head_dim;
  const int all = attention_.heads + 2 * attention_.kv_heads;
  for (const SequenceRows& s : batch_.sequences) {
    for (int head = 0; head < attention_.heads; ++head) {
      const Page kv = gather(layer, s, head / (attention_.heads / attention_.kv_heads));
      for (int i = 0; i < s.row_count; ++i) {
        const int row = s.first_row + i;
        attend(kv, s.first_position + i, {qkv + (row * all + head) * dim, dim},
               {out + (row * attention_.heads + head) * dim, dim});
      }
    }
  }
}

}  // namespace baton::kernels
