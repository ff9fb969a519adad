#include "tests/differential/random_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iostream>
#include <set>

#include "kernels/dequantize.h"

namespace baton::kernels {
namespace {

// Offsets of the fp16 numbers in a block.
std::vector<int> halves_of(DType type) {
  switch (type) {
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ6_K:
      return {208};
    case DType::kQ4_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    default:
      return {0};
  }
}

}  // namespace

WeightView RandomModel::weight(DType type, int64_t rows, int64_t cols) {
  const DTypeTraits traits = traits_of(type);
  const size_t size = rows * row_bytes(type, cols).value();
  auto& bytes = *bytes_.emplace_back(std::make_unique<std::vector<std::byte>>(size));
  for (std::byte& b : bytes) b = static_cast<std::byte>(generator_());
  if (type == DType::kF32) {
    const std::vector<float> values = floats(rows * cols);
    std::memcpy(bytes.data(), values.data(), size);
    return {type, bytes.data(), rows, cols};
  }
  const bool brain = type == DType::kBF16;
  const uint16_t mask = brain ? 0x80ff : 0x83ff;
  for (size_t block = 0; block < size; block += traits.bytes) {
    for (const int at : halves_of(type)) {
      uint16_t half;
      std::memcpy(&half, bytes.data() + block + at, 2);
      const int exponent = 7 + ((half >> 10) & 7);
      half = static_cast<uint16_t>((half & mask) | (brain ? (112 + exponent) << 7 : exponent << 10));
      std::memcpy(bytes.data() + block + at, &half, 2);
    }
  }
  return {type, bytes.data(), rows, cols};
}

StepBatch OwnedBatch::batch(int vocabulary) {
  for (const Sequence& s : sequences) {
    rows.push_back({static_cast<int32_t>(positions.size()), s.rows, s.first_position, s.blocks});
    for (int i = 0; i < s.rows; ++i) {
      positions.push_back(s.first_position + i);
      tokens.push_back(static_cast<TokenId>(positions.size() * 7 % vocabulary));
    }
    logit_rows.push_back(static_cast<int32_t>(positions.size()) - 1);
  }
  return {tokens, positions, rows, logit_rows};
}

std::vector<NamedBackend> cpu_backends(int threads, Scalar scalar, Numerics numerics) {
  std::vector<NamedBackend> out;
  for (const char* limit : {"scalar", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "avx512-vnni-bf16", ""}) {
    if (scalar == Scalar::kLeftOut && std::string_view(limit) == "scalar") continue;
    auto backend =
        make_backend({.device = "cpu", .threads = threads, .numerics = numerics, .isa_limit = limit});
    if (!backend.ok()) {
      ADD_FAILURE() << backend.status();
      continue;
    }
    const std::string name = (*backend)->description();
    const bool known = std::ranges::any_of(out, [&](const NamedBackend& b) { return b.name == name; });
    if (!known) out.push_back({name, *std::move(backend)});
  }
  static std::set<std::string> said;
  for (const NamedBackend& b : out)
    if (said.insert(b.name).second) std::cout << "runs on: " << b.name << "\n";
  return out;
}

void expect_same_bits(std::span<const float> want, std::span<const float> got, const std::string& what) {
  ASSERT_EQ(want.size(), got.size()) << what;
  // Non-finite values would agree for the wrong reason.
  EXPECT_TRUE(std::ranges::all_of(want, [](float v) { return std::isfinite(v); })) << what;
  if (std::memcmp(want.data(), got.data(), want.size_bytes()) == 0) return;
  int wrong = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::bit_cast<uint32_t>(want[i]) == std::bit_cast<uint32_t>(got[i])) continue;
    if (++wrong == 1)
      ADD_FAILURE() << what << ": element " << i << ": want " << want[i] << ", got " << got[i];
  }
  ADD_FAILURE() << what << ": " << wrong << " of " << want.size() << " differ";
}

}  // namespace baton::kernels
