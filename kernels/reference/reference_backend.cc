#include "kernels/reference/reference_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/backend_checks.h"
#include "kernels/dequantize.h"
#include "kernels/logit_rows.h"
#include "kernels/reference/reference_matmul.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::reference {
namespace {

class ReferenceLinear final : public Linear {
 public:
  ReferenceLinear(int64_t rows, int64_t cols, int k_shards, std::vector<float> bias)
      : panels(rows, cols, k_shards), bias(std::move(bias)) {}
  int64_t rows() const override { return panels.rows(); }
  int64_t cols() const override { return panels.cols(); }
  size_t bytes() const override { return panels.bytes(); }

  FloatPanels panels;
  std::vector<float> bias;
};

class ReferenceEmbedding final : public Embedding {
 public:
  explicit ReferenceEmbedding(const WeightView& view, size_t stride) : table(view), stride(stride) {}
  WeightView table;
  size_t stride;  // bytes of a row
};

void rms_norm(const NormWeights& norm, std::span<const float> x, std::span<float> out) {
  BATON_CHECK(norm.weight.size() == x.size());
  double squares = 0;
  for (float v : x) squares += static_cast<double>(v) * v;
  const double factor = 1.0 / std::sqrt(squares / static_cast<double>(x.size()) + norm.eps);
  for (size_t i = 0; i < x.size(); ++i) out[i] = static_cast<float>(x[i] * factor * norm.weight[i]);
}

float silu(float x) { return static_cast<float>(x / (1.0 + std::exp(-static_cast<double>(x)))); }

}  // namespace

void ReferenceBackend::FreeFloats::operator()(float* p) const { std::free(p); }

std::string ReferenceBackend::numerics_id(KvType kv) const {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "int8"};
  return absl::StrCat("reference-f32-v2/kv-", kNames[static_cast<int>(kv)]);
}

absl::StatusOr<std::unique_ptr<Linear>> ReferenceBackend::make_linear(const LinearSpec& spec) {
  RETURN_IF_ERROR(check_linear(spec));
  int64_t rows = 0;
  for (const WeightView& part : spec.parts) rows += part.rows;
  auto linear = std::make_unique<ReferenceLinear>(rows, spec.parts[0].cols, spec.k_shards, spec.bias);
  std::vector<float> opened(spec.parts[0].cols);
  int64_t row = 0;
  for (const WeightView& part : spec.parts) {
    for (int64_t r = 0; r < part.rows; ++r) {
      open_row(part, r, opened);
      linear->panels.set_row(row++, opened);
    }
  }
  return linear;
}

size_t ReferenceBackend::packed_bytes(const LinearSpec& spec) const {
  size_t rows = 0;
  for (const WeightView& part : spec.parts) rows += part.rows;
  return rows * spec.parts[0].cols * sizeof(float);
}

absl::StatusOr<std::unique_ptr<Embedding>> ReferenceBackend::make_embedding(const WeightView& table) {
  RETURN_IF_ERROR(check_embedding(table));
  return std::make_unique<ReferenceEmbedding>(table, row_stride(table));
}

absl::Status ReferenceBackend::set_attention(const AttentionSpec& attention, const RopeSpec& rope) {
  RETURN_IF_ERROR(check_attention(attention, rope));
  attention_ = attention;
  rope_ = rope;
  return absl::OkStatus();
}

absl::Status ReferenceBackend::attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) {
  RETURN_IF_ERROR(check_kv(pool, geometry, attention_));
  kv_ = ReferenceKv(pool, geometry);
  return absl::OkStatus();
}

float* ReferenceBackend::allocate(size_t floats) {
  const size_t bytes = (std::max<size_t>(floats, 1) * sizeof(float) + 63) / 64 * 64;
  auto* p = static_cast<float*>(std::aligned_alloc(64, bytes));
  BATON_CHECK(p != nullptr, "out of memory");
  std::memset(p, 0, bytes);
  memory_.emplace_back(p);
  return p;
}

int64_t ReferenceBackend::qkv_width() const {
  return int64_t{attention_.heads + 2 * attention_.kv_heads} * attention_.head_dim;
}

void ReferenceBackend::begin_step(const StepBatch& batch) {
  check_batch(batch, kv_.geometry());
  batch_ = batch;
  fill_rotations();
}

void ReferenceBackend::fill_rotations() {
  const size_t pairs = rope_.inv_freq.size();
  rotations_.resize(batch_.positions.size() * pairs * 2);
  for (size_t row = 0; row < batch_.positions.size(); ++row) {
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = batch_.positions[row] * rope_.inv_freq[i];
      rotations_[(row * pairs + i) * 2] = static_cast<float>(std::cos(angle) * rope_.magnitude);
      rotations_[(row * pairs + i) * 2 + 1] = static_cast<float>(std::sin(angle) * rope_.magnitude);
    }
  }
}

void ReferenceBackend::rotate(int32_t row, std::span<float> head) const {
  const size_t pairs = rope_.inv_freq.size();
  for (size_t i = 0; i < pairs; ++i) {
    const float c = rotations_[(row * pairs + i) * 2];
    const float s = rotations_[(row * pairs + i) * 2 + 1];
    float& a = rope_.interleaved ? head[2 * i] : head[i];
    float& b = rope_.interleaved ? head[2 * i + 1] : head[i + pairs];
    const float a0 = a, b0 = b;
    a = a0 * c - b0 * s;
    b = a0 * s + b0 * c;
  }
}

void ReferenceBackend::multiply(const Linear& linear, const float* x, int64_t count, float* y) const {
  const auto& l = static_cast<const ReferenceLinear&>(linear);
  l.panels.multiply(x, count, y);
  if (l.bias.empty()) return;
  for (int64_t r = 0; r < count; ++r)
    for (int64_t o = 0; o < l.rows(); ++o) y[r * l.rows() + o] += l.bias[o];
}

void ReferenceBackend::norm_rows(const NormWeights& norm, const float* x, int64_t count) {
  const size_t width = norm.weight.size();
  normed_.resize(count * width);
  for (int64_t r = 0; r < count; ++r)
    rms_norm(norm, {x + r * width, width}, {normed_.data() + r * width, width});
}

void ReferenceBackend::embed(const Embedding& table, float* out) {
  const auto& e = static_cast<const ReferenceEmbedding&>(table);
  for (TokenId token : batch_.tokens) {
    BATON_CHECK(token >= 0 && token < e.table.rows, "token outside the vocabulary");
    dequantize_row(e.table.type, e.table.data + token * e.stride, {out, static_cast<size_t>(e.table.cols)});
    out += e.table.cols;
  }
}

void ReferenceBackend::norm_linear(const NormWeights& norm, const Linear& linear, const float* x,
                                   float* out) {
  norm_rows(norm, x, batch_.rows());
  multiply(linear, normed_.data(), batch_.rows(), out);
}

void ReferenceBackend::rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm,
                                  float* qkv) {
  const int dim = attention_.head_dim;
  for (const SequenceRows& sequence : batch_.sequences) {
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      const int32_t row = sequence.first_row + i;
      float* q = qkv + row * qkv_width();
      float* k = q + attention_.heads * dim;
      for (int h = 0; h < attention_.heads + attention_.kv_heads; ++h) {
        const std::span<float> head(q + h * dim, dim);
        const NormWeights* norm = h < attention_.heads ? q_norm : k_norm;
        if (norm != nullptr) rms_norm(*norm, head, head);
        rotate(row, head);
      }
      const int position = sequence.first_position + i;
      const int block_tokens = kv_.geometry().block_tokens;
      kv_.store(layer, sequence.blocks[position / block_tokens], position % block_tokens, k,
                k + attention_.kv_heads * dim);
    }
  }
}

void ReferenceBackend::attention(int layer, const float* qkv, float* out) {
  const size_t dim = attention_.head_dim;
  const int share = attention_.heads / attention_.kv_heads;
  for (const SequenceRows& sequence : batch_.sequences) {
    for (int kv_head = 0; kv_head < attention_.kv_heads; ++kv_head) {
      kv_.load(layer, sequence.blocks, kv_head, sequence.first_position + sequence.row_count, opened_);
      for (int32_t i = 0; i < sequence.row_count; ++i) {
        const int position = sequence.first_position + i;
        const int first = attention_.window > 0 ? std::max(0, position - attention_.window + 1) : 0;
        const size_t row = sequence.first_row + i;
        for (int h = kv_head * share; h < (kv_head + 1) * share; ++h)
          attend(opened_, {first, position}, attention_.scale, {qkv + row * qkv_width() + h * dim, dim},
                 {out + (row * attention_.heads + h) * dim, dim});
      }
    }
  }
}

void ReferenceBackend::linear_add(const Linear& linear, const float* x, float* residual) {
  product_.resize(batch_.rows() * linear.rows());
  multiply(linear, x, batch_.rows(), product_.data());
  for (size_t i = 0; i < product_.size(); ++i) residual[i] += product_[i];
}

void ReferenceBackend::linear_part(const Linear& linear, const float* x, float* out) {
  multiply(linear, x, batch_.rows(), out);
}

void ReferenceBackend::gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) {
  const int64_t width = gate_up.rows() / 2;
  norm_rows(norm, x, batch_.rows());
  product_.resize(batch_.rows() * gate_up.rows());
  multiply(gate_up, normed_.data(), batch_.rows(), product_.data());
  for (int64_t r = 0; r < batch_.rows(); ++r) {
    const float* h = product_.data() + r * 2 * width;
    for (int64_t i = 0; i < width; ++i) out[r * width + i] = silu(h[i]) * h[width + i];
  }
}

void ReferenceBackend::keep_logit_rows(std::span<const RowTensor> tensors) {
  batch_ = kernels::keep_logit_rows(batch_, tensors, kept_rows_);
}

void ReferenceBackend::head(const NormWeights& norm, const Linear& linear, const float* x,
                            const LogitRows& out) {
  const auto count = static_cast<int64_t>(batch_.logit_rows.size());
  const size_t width = norm.weight.size();
  normed_.resize(count * width);
  for (int64_t r = 0; r < count; ++r)
    rms_norm(norm, {x + batch_.logit_rows[r] * width, width}, {normed_.data() + r * width, width});
  multiply(linear, normed_.data(), count, out.values);
  out.look_over(count, linear.rows());
}

}  // namespace baton::kernels::reference
