#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/reference/reference_attention.h"

namespace baton::kernels::reference {

// The slow backend that tells a wrong formula from rounding: weights opened to float32 at load, float32
// activations, sums carried in double, rotation angles in double. Its logits follow a float64 forward pass to
// about 1e-4. Thread: one, the caller's. Weights cost 4 bytes each. Errors: as Backend.
class ReferenceBackend : public Backend {
 public:
  std::string description() const override { return "reference float32, 1 thread"; }
  std::string numerics_id(KvType kv) const override;
  std::string kv_layout_name() const override { return "kv-rows"; }

  absl::StatusOr<std::unique_ptr<Linear>> make_linear(const LinearSpec& spec) override;
  size_t packed_bytes(const LinearSpec& spec) const override;
  absl::StatusOr<std::unique_ptr<Embedding>> make_embedding(const WeightView& table) override;
  absl::Status set_attention(const AttentionSpec& attention, const RopeSpec& rope) override;
  absl::Status attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) override;
  float* allocate(size_t floats) override;

  void begin_step(const StepBatch& batch) override;
  void embed(const Embedding& table, float* out) override;
  void norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) override;
  void rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) override;
  void attention(int layer, const float* qkv, float* out) override;
  void linear_add(const Linear& linear, const float* x, float* residual) override;
  void gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) override;
  void linear_part(const Linear& linear, const float* x, float* out) override;
  void keep_logit_rows(std::span<const RowTensor> tensors) override;
  void head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) override;
  absl::Status finish_step() override { return absl::OkStatus(); }

 private:
  int64_t qkv_width() const;
  void fill_rotations();
  void rotate(int32_t row, std::span<float> head) const;
  // y[count][linear.rows] = linear(x[count][linear.cols]) + bias
  void multiply(const Linear& linear, const float* x, int64_t count, float* y) const;
  // into normed_: rms_norm of `count` rows of x
  void norm_rows(const NormWeights& norm, const float* x, int64_t count);

  struct FreeFloats {
    void operator()(float* p) const;
  };
  std::vector<std::unique_ptr<float, FreeFloats>> memory_;
  AttentionSpec attention_;
  RopeSpec rope_;
  ReferenceKv kv_;
  StepBatch batch_;
  std::vector<int32_t> kept_rows_;
  std::vector<float> rotations_;  // [rows][cos, sin of each pair]
  std::vector<float> normed_;
  std::vector<float> product_;
  ReferenceKv::Opened opened_;
};

}  // namespace baton::kernels::reference
