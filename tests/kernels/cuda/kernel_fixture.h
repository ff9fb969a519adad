#pragma once

// clang-format off
#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/hopper_words.cuh"
#include "kernels/cuda/attention_kernels.cuh"
#include "kernels/cuda/draw_kernels.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/row_kernels.cuh"
// clang-format on

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/cuda/step_tables.h"
#include "kernels/float16.h"
#include "tests/support/seed.h"

// What the emulated kernel tests share: random numbers from a printed seed and a step's tables.
namespace baton::kernels::cuda {

class Random {
 public:
  explicit Random(uint64_t fallback) : seed_(seed_or(fallback)), generator_(seed_) {}
  uint64_t seed() const { return seed_; }
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator_); }
  std::vector<float> floats(size_t count, float spread = 1) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> out(count);
    for (float& v : out) v = normal(generator_);
    return out;
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    std::shuffle(items.begin(), items.end(), generator_);
  }

 private:
  static uint64_t seed_or(uint64_t fallback) { return support::given_seed().value_or(fallback); }
  uint64_t seed_;
  std::mt19937_64 generator_;
};

inline std::vector<uint16_t> to_brain(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float v : values) out.push_back(float_to_bfloat16(v));
  return out;
}

struct Rows {
  int first_position;
  int count;
};

// The tables of a step and what lies behind them. Items are those a test adds.
struct OwnedStep {
  std::vector<int32_t> counts = std::vector<int32_t>(kStepCounts, 0);
  std::vector<int32_t> tokens, fed, positions, row_sequence, logit_rows, block_starts, lengths, blocks;
  std::vector<AttentionItem> wide, narrow;
  std::vector<MergeItem> merges;

  void add_sequence(Rows rows, const std::vector<int32_t>& table) {
    const auto sequence = static_cast<int32_t>(lengths.size());
    for (int i = 0; i < rows.count; ++i) {
      positions.push_back(rows.first_position + i);
      row_sequence.push_back(sequence);
      tokens.push_back(0);
      fed.push_back(-1);
    }
    lengths.push_back(rows.first_position + rows.count);
    block_starts.push_back(static_cast<int32_t>(blocks.size()));
    blocks.insert(blocks.end(), table.begin(), table.end());
  }
  StepTables tables() {
    counts[kRows] = static_cast<int32_t>(positions.size());
    counts[kLogitRows] = static_cast<int32_t>(logit_rows.size());
    counts[kWideItems] = static_cast<int32_t>(wide.size());
    counts[kNarrowItems] = static_cast<int32_t>(narrow.size());
    counts[kMergeItems] = static_cast<int32_t>(merges.size());
    return {.counts = counts.data(),
            .tokens = tokens.data(),
            .fed = fed.data(),
            .positions = positions.data(),
            .row_sequence = row_sequence.data(),
            .logit_rows = logit_rows.data(),
            .block_starts = block_starts.data(),
            .lengths = lengths.data(),
            .wide_items = wide.data(),
            .narrow_items = narrow.data(),
            .merge_items = merges.data(),
            .blocks = blocks.data()};
  }
};

}  // namespace baton::kernels::cuda
