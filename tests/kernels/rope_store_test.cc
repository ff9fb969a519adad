#include "kernels/cpu/rope_store.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/instruction_set.h"

namespace baton::kernels::cpu {
namespace {

constexpr int kDim = 16, kWidth = 3 * kDim;

std::vector<float> numbers(size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = std::sin(static_cast<float>(i) * 0.7f);
  return out;
}

// Angles are kept from step to step, up to a position; wherever they come from, they are the contract's.
TEST(RopeStore, RotatesByTheContractAtAnyPosition) {
  const Kernels* kernels = *choose_kernels("");
  RopeStore store(*kernels);
  RopeSpec rope;
  for (int i = 0; i < kDim / 2; ++i) rope.inv_freq.push_back(std::pow(1e4, -2.0 * i / kDim));
  rope.magnitude = 1.17;
  store.set({.heads = 1, .kv_heads = 1, .head_dim = kDim, .scale = 1}, rope);
  for (const std::vector<int32_t>& positions :
       {std::vector<int32_t>{0, 255, 256, 20000}, {16383, 16384, 131071}, {5, 20000, 5, 16385, 0, 99999}}) {
    const std::vector<TokenId> tokens(positions.size());
    store.begin_step({.tokens = tokens, .positions = positions});
    std::vector<float> qkv = numbers(positions.size() * kWidth);
    for (size_t r = 0; r < positions.size(); ++r) {
      std::vector<float> want(qkv.begin() + r * kWidth, qkv.begin() + r * kWidth + kDim), got(kDim);
      std::vector<contract::Rotation> rotations;
      for (const double f : rope.inv_freq)
        rotations.push_back(contract::rotation(positions[r], f, rope.magnitude));
      contract::rotate(want, rotations, rope.interleaved);
      store.rotate_queries({.qkv = qkv.data()}, static_cast<int64_t>(r), 0, got.data());
      EXPECT_EQ(got, want) << "position " << positions[r];
    }
  }
}

}  // namespace
}  // namespace baton::kernels::cpu
