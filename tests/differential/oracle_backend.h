#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/contract.h"

namespace baton::kernels {

// The contract as a backend: every operation is a loop over outputs that calls contract.h on the weights as
// they lie in the file. Nothing is repacked, tiled, paged or shared between threads; the KV of a sequence is
// kept in plain arrays keyed by the first block it was given. What CpuBackend computes must equal this bit
// for bit.
class OracleBackend final : public Backend {
 public:
  explicit OracleBackend(Numerics numerics = Numerics::kFloat)
      : brain_dots_(numerics == Numerics::kBrainDots) {}
  std::string description() const override { return "oracle"; }
  std::string numerics_id(KvType) const override { return "oracle"; }
  std::string kv_layout_name() const override { return "oracle"; }

  absl::StatusOr<std::unique_ptr<Linear>> make_linear(const LinearSpec& spec) override;
  size_t packed_bytes(const LinearSpec&) const override { return 0; }  // it computes from the file
  absl::StatusOr<std::unique_ptr<Embedding>> make_embedding(const WeightView& table) override;
  absl::Status set_attention(const AttentionSpec& attention, const RopeSpec& rope) override;
  absl::Status attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) override;
  float* allocate(size_t floats) override;

  void begin_step(const StepBatch& batch) override { batch_ = batch; }
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
  // Keys and values of one (layer, block, kv_head): [block_tokens][head_dim] each, after rounding; of int8 KV
  // the codes, and the scales [block_tokens].
  struct Page {
    std::vector<float> keys;
    std::vector<float> values;
    std::vector<float> key_scales;
    std::vector<float> value_scales;
  };
  Page& page(int layer, BlockId block, int kv_head);
  float rounded(float value) const;
  // What attention of one KV head reads: the pages of a sequence, one after the other.
  Page gather(int layer, const SequenceRows& sequence, int kv_head);
  void attend(const Page& kv, int position, std::span<const float> q, std::span<float> out) const;

  const bool brain_dots_;
  AttentionSpec attention_;
  RopeSpec rope_;
  KvGeometry geometry_;
  StepBatch batch_;
  std::vector<int32_t> kept_rows_;
  std::vector<Page> pages_;
  std::vector<std::unique_ptr<std::vector<float>>> memory_;
};

}  // namespace baton::kernels
