#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace baton {

// Element types of weights as they lie in a model file. Values are GGUF's type numbers (ggml.h, enum
// ggml_type) where it has one.
enum class DType : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kBF16 = 30,
  kF8E4M3 = 255,  // of no GGUF: a number of an fp8 checkpoint, which has a scale beside it (WeightView)
};

// Elements are stored in blocks of `elements` values in `bytes` bytes; a row is a whole number of blocks.
struct DTypeTraits {
  DType type;
  std::string_view name;
  int elements;
  int bytes;
};

// nullopt for a number that is not a type above.
constexpr std::optional<DTypeTraits> dtype_traits(uint32_t ggml_type) {
  constexpr DTypeTraits kAll[] = {
      {DType::kF32, "F32", 1, 4},
      {DType::kF16, "F16", 1, 2},
      {DType::kBF16, "BF16", 1, 2},
      {DType::kQ8_0, "Q8_0", 32, 34},
      {DType::kQ4_0, "Q4_0", 32, 18},
      {DType::kQ4_1, "Q4_1", 32, 20},
      {DType::kQ2_K, "Q2_K", 256, 84},
      {DType::kQ4_K, "Q4_K", 256, 144},
      {DType::kQ5_K, "Q5_K", 256, 176},
      {DType::kQ6_K, "Q6_K", 256, 210},
      {DType::kIQ2_XXS, "IQ2_XXS", 256, 66},
      {DType::kF8E4M3, "F8_E4M3", 1, 1},
  };
  for (const auto& t : kAll)
    if (static_cast<uint32_t>(t.type) == ggml_type) return t;
  return std::nullopt;
}
constexpr DTypeTraits traits_of(DType type) { return *dtype_traits(static_cast<uint32_t>(type)); }

}  // namespace baton
