#pragma once

#include <string>

#include "tests/support/random_model.h"
#include "tests/support/temp_dir.h"

namespace baton::testing {

// A made-up model's GGUF file, for as long as this lives. Aborts when it cannot be written.
class RandomFile {
 public:
  explicit RandomFile(const RandomModelOptions& options);
  const std::string& path() const { return path_; }

 private:
  const support::TempDir directory_{"random"};
  const std::string path_ = directory_.file("m.gguf");
};

// Eight heads over two KV heads, whole blocks of Q8_0 for every split up to eight ranks: with more than two
// of them neighbours hold the same KV head.
RandomModelOptions shared_kv_heads(int32_t layers);

}  // namespace baton::testing
