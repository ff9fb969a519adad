#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/seed.h"

namespace baton::kernels {

// Everything random in a case comes from one seed, printed when the case fails. BATON_SEED replays it.
class RandomModel {
 public:
  explicit RandomModel(uint64_t seed) : generator_(seed) {}

  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator_); }
  template <class T>
  T one_of(std::vector<T> choices) {
    return choices[between(0, static_cast<int>(choices.size()) - 1)];
  }
  std::vector<float> floats(size_t count, float spread = 1.0f) {
    std::normal_distribution<float> normal(0.0f, spread);
    std::vector<float> out(count);
    for (float& v : out) v = normal(generator_);
    return out;
  }
  void shuffle(std::vector<BlockId>& blocks) { std::shuffle(blocks.begin(), blocks.end(), generator_); }

  // Random weights whose half-precision scales lie in 2^-8 .. 2^-1; the bytes live as long as the model.
  WeightView weight(DType type, int64_t rows, int64_t cols);

  static uint64_t seed_or(uint64_t fallback) { return support::given_seed().value_or(fallback); }

 private:
  std::mt19937_64 generator_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> bytes_;
};

inline const std::vector<DType>& all_types() {
  static const std::vector<DType> types = {DType::kF32,  DType::kF16,  DType::kBF16,   DType::kQ8_0,
                                           DType::kQ4_0, DType::kQ4_1, DType::kQ2_K,   DType::kQ4_K,
                                           DType::kQ5_K, DType::kQ6_K, DType::kIQ2_XXS};
  return types;
}

// A step's spans and the vectors behind them.
struct OwnedBatch {
  struct Sequence {
    int32_t first_position;
    int32_t rows;
    std::vector<BlockId> blocks;
  };
  std::vector<Sequence> sequences;
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<SequenceRows> rows;
  std::vector<int32_t> logit_rows;

  void add(const Sequence& sequence) { sequences.push_back(sequence); }
  // Call after the last add().
  StepBatch batch(int vocabulary = 1);
};

struct NamedBackend {
  std::string name;
  std::unique_ptr<Backend> backend;
};
// CpuBackends for every instruction set this machine has, with `threads` threads. The scalar one, which is
// slow, can be left out.
enum class Scalar { kIncluded, kLeftOut };
std::vector<NamedBackend> cpu_backends(int threads, Scalar scalar = Scalar::kIncluded,
                                       Numerics numerics = Numerics::kFloat);

// memcmp with a readable first difference.
void expect_same_bits(std::span<const float> want, std::span<const float> got, const std::string& what);

}  // namespace baton::kernels
