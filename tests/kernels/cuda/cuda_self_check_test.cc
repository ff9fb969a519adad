// What a worker asks of its GPU before it serves (kernels/self_check.h), on the emulated device: it must pass
// there, or no GPU would ever be let in.
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/device_options.h"
#include "kernels/self_check.h"

namespace baton::kernels::cuda {
namespace {

struct Case {
  const char* name;
  int head_dim;
  const char* variable = nullptr;  // set to `value`
  const char* value = nullptr;
  Quantization quantization = Quantization::kNone;
};

class CudaSelfCheck : public ::testing::TestWithParam<Case> {};

TEST_P(CudaSelfCheck, Passes) {
  const Case& c = GetParam();
  if (c.variable != nullptr) ::setenv(c.variable, c.value, 1);
  const auto backend = make_device_backend({.device = "cuda", .numerics = Numerics::kBrainDots},
                                           {.quantization = c.quantization, .algorithms = {}});
  if (c.variable != nullptr) ::unsetenv(c.variable);
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(check_against_reference(**backend, {.head_dim = c.head_dim, .kv = KvType::kBF16, .rows = 70}),
            absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Kernels, CudaSelfCheck,
                         ::testing::Values(Case{"wgmma64", 64}, Case{"wgmma128", 128}, Case{"plain", 48},
                                           Case{"mma", 64, "BATON_CUDA_WGMMA", "0"},
                                           Case{"fp8", 64, nullptr, nullptr, Quantization::kFp8},
                                           Case{"overlapping", 64, "BATON_CUDA_PDL", "1"}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton::kernels::cuda
