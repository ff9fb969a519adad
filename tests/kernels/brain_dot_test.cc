#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "base/rng.h"
#include "kernels/cpu/contract.h"
#include "kernels/cpu/kernels.h"
#include "kernels/float16.h"

// The bf16 dot instruction of this machine against contract::brain_dot.
namespace baton::kernels::cpu {
namespace {

using contract::brain_dot;
using contract::BrainPair;

bool has_instruction() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

struct Case {
  float sum;
  BrainPair a, b;
};

void expect_same(const std::vector<Case>& cases) {
  for (size_t first = 0; first < cases.size(); first += 16) {
    uint32_t a[16] = {}, b[16] = {};
    float sums[16] = {};
    const size_t count = std::min<size_t>(16, cases.size() - first);
    for (size_t i = 0; i < count; ++i) {
      a[i] = std::bit_cast<uint32_t>(cases[first + i].a);
      b[i] = std::bit_cast<uint32_t>(cases[first + i].b);
      sums[i] = cases[first + i].sum;
    }
    kAvx512BrainKernels.dots(a, b, sums);
    for (size_t i = 0; i < count; ++i) {
      const Case& c = cases[first + i];
      const float want = brain_dot(c.sum, c.a, c.b);
      if (std::isnan(want) && std::isnan(sums[i])) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(want), std::bit_cast<uint32_t>(sums[i]))
          << c.sum << " + " << bfloat16_to_float(c.a.even) << " * " << bfloat16_to_float(c.b.even) << " + "
          << bfloat16_to_float(c.a.odd) << " * " << bfloat16_to_float(c.b.odd) << ": want " << want
          << ", got " << sums[i];
    }
  }
}

TEST(BrainDot, AnyBits) {
  if (!has_instruction()) GTEST_SKIP() << "no AVX512_BF16";
  Rng rng(11);
  std::vector<Case> cases(1'000'000);
  for (Case& c : cases) {
    const uint64_t x = rng.next();
    c = {std::bit_cast<float>(static_cast<uint32_t>(rng.next())),
         {static_cast<uint16_t>(x), static_cast<uint16_t>(x >> 16)},
         {static_cast<uint16_t>(x >> 32), static_cast<uint16_t>(x >> 48)}};
  }
  expect_same(cases);
}

// Products and sum of like size: every bit of every step counts.
TEST(BrainDot, LikeExponents) {
  if (!has_instruction()) GTEST_SKIP() << "no AVX512_BF16";
  Rng rng(12);
  std::vector<Case> cases(1'000'000);
  for (Case& c : cases) {
    const auto number = [&] {
      return static_cast<uint16_t>((rng.next() & 0x807f) | (120 + rng.below(14)) << 7);
    };
    const auto bits = static_cast<uint32_t>((rng.next() & 0x807fffff) | (112 + rng.below(26)) << 23);
    c = {std::bit_cast<float>(bits), {number(), number()}, {number(), number()}};
  }
  expect_same(cases);
}

// Results and inputs around the smallest normal number, and special values in every place.
TEST(BrainDot, DenormalsAndSpecials) {
  if (!has_instruction()) GTEST_SKIP() << "no AVX512_BF16";
  const uint16_t brains[] = {0,      0x8000, 1,      0x807f, 0x0080, 0x8080, 0x00ff, 0x2000, 0x1fff, 0x2001,
                             0xa000, 0x3f80, 0xbf80, 0x3f7f, 0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7fc0, 0x207f};
  const uint32_t sums[] = {0,          0x80000000, 1,          0x807fffff, 0x00800000, 0x80800000,
                           0x00800001, 0x007fffff, 0x00ffffff, 0x3f800000, 0xbf800000, 0x7f7fffff,
                           0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x80ffffff};
  std::vector<Case> cases;
  for (const uint16_t a0 : brains)
    for (const uint16_t a1 : brains)
      for (const uint16_t b0 : brains)
        for (const uint16_t b1 : brains)
          for (const uint32_t sum : sums) cases.push_back({std::bit_cast<float>(sum), {a0, a1}, {b0, b1}});
  expect_same(cases);
  Rng rng(13);
  cases.resize(1'000'000);
  for (Case& c : cases) {  // products of 2^-128 .. 2^-124
    const auto number = [&] {
      return static_cast<uint16_t>((rng.next() & 0x807f) | (63 + rng.below(3)) << 7);
    };
    const auto bits = static_cast<uint32_t>((rng.next() & 0x807fffff) | rng.below(4) << 23);
    c = {std::bit_cast<float>(bits), {number(), number()}, {number(), number()}};
  }
  expect_same(cases);
}

// The definition by itself, on numbers small enough to follow.
TEST(BrainDot, OddProductFirst) {
  const uint16_t one = 0x3f80, big = 0x4b80, minus_big = 0xcb80;   // 2^24
  EXPECT_EQ(brain_dot(1.0f, {minus_big, big}, {one, one}), 0.0f);  // (1 + 2^24) - 2^24: 1 is lost
  EXPECT_EQ(brain_dot(0.0f, {one, one}, {0x4000, 0x4040}), 5.0f);
  EXPECT_EQ(std::bit_cast<uint32_t>(brain_dot(-0x1p-140f, {0, 0}, {0, 0})),
            0u);                                               // read as -0, and -0 + 0 is 0
  EXPECT_EQ(brain_dot(0.0f, {0, 0x2000}, {0, 0x1f00}), 0.0f);  // 2^-129 is not kept
}

}  // namespace
}  // namespace baton::kernels::cpu
