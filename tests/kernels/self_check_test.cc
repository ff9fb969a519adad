#include "kernels/self_check.h"

#include <gmock/gmock.h>

#include "kernels/reference/reference_backend.h"

// A device that computes something else is found, and what it computes wrongly is named.
namespace baton::kernels {
namespace {

using ::testing::HasSubstr;

constexpr SelfCheck kCheck = {.head_dim = 64, .kv = KvType::kBF16, .rows = 140};
constexpr SelfCheck kFloats = {.head_dim = 48, .kv = KvType::kF32, .rows = 70};

TEST(SelfCheck, TheCpuPasses) {
  const auto bf16 = *make_backend({.device = "cpu", .numerics = Numerics::kBrainDots});
  EXPECT_EQ(check_against_reference(*bf16, kCheck), absl::OkStatus());
  const auto floats = *make_backend({.device = "cpu", .numerics = Numerics::kFloat});
  EXPECT_EQ(check_against_reference(*floats, kFloats), absl::OkStatus());
}

class WrongAttention : public reference::ReferenceBackend {
  void attention(int layer, const float* qkv, float* out) override {
    ReferenceBackend::attention(layer, qkv, out);
    for (int i = 0; i < 64 * 4 * kFloats.head_dim; ++i) out[i] *= 1.5f;
  }
};
class WrongSilu : public reference::ReferenceBackend {
  void gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) override {
    ReferenceBackend::gate_up(norm, gate_up, x, out);
    out[0] = NAN;
  }
};
// Right, but another right for a row alone.
class WrongAlone : public reference::ReferenceBackend {
  void begin_step(const StepBatch& batch) override {
    alone_ = batch.rows() == 1;
    ReferenceBackend::begin_step(batch);
  }
  void embed(const Embedding& table, float* out) override {
    ReferenceBackend::embed(table, out);
    if (alone_) out[0] *= 1.001f;
  }
  bool alone_ = false;
};

TEST(SelfCheck, NamesWhatIsWrong) {
  const auto said = [](Backend&& backend) {
    return std::string(check_against_reference(backend, kFloats).message());
  };
  EXPECT_EQ(said(reference::ReferenceBackend()), "");
  EXPECT_THAT(said(WrongAttention()), HasSubstr("rotation, KV write and attention, 70 rows"));
  EXPECT_THAT(said(WrongSilu()), HasSubstr("gate and up, SiLU and down, 70 rows: logit 0 of row 0 is nan"));
  EXPECT_THAT(said(WrongAlone()), HasSubstr("embedding, norm and linear, 1 rows: a row has not the bits"));
}

}  // namespace
}  // namespace baton::kernels
