#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/support/random_model.h"

namespace baton::testing {

// A tensor of a safetensors file that is to be written.
struct StoredEntry {
  std::string name, type;
  std::vector<int64_t> shape;
  std::string bytes;
};

// A matrix as whoever publishes such a checkpoint quantises it: scale = largest of 128 x 128 / 448.
struct Fp8Matrix {
  std::vector<uint8_t> numbers;
  std::vector<float> scales;
};
Fp8Matrix quantise_fp8(const std::vector<float>& w, int64_t rows, int64_t cols);

// A Hugging Face directory whose matrices of layers are fp8 with a scale for each 128 x 128 weights, all else
// as RandomModel has it; `change` before the file is written. What was stored, by name; aborts when it
// cannot.
std::map<std::string, Fp8Matrix> write_fp8_checkpoint(
    const std::string& directory, const RandomModelOptions& options,
    const std::function<void(std::vector<StoredEntry>&)>& change = [](auto&) {});

}  // namespace baton::testing
