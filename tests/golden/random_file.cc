#include "tests/golden/random_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>

#include "base/cat.h"
#include "base/check.h"

namespace baton::testing {
namespace {

std::string fresh_path() {
  static std::atomic<int> number = 0;
  return cat(::testing::TempDir(), "/random_", ::getpid(), "_", number++, ".gguf");
}

}  // namespace

RandomFile::RandomFile(const RandomModelOptions& options) : path_(fresh_path()) {
  BATON_CHECK(RandomModel(options).write_gguf(path_), path_.c_str());
}

RandomFile::~RandomFile() { ::unlink(path_.c_str()); }

RandomModelOptions shared_kv_heads(int32_t layers) {
  return {.vocab = 500,
          .hidden = 256,
          .ffn = 512,
          .layers = layers,
          .heads = 8,
          .kv_heads = 2,
          .head_dim = 32,
          .matrix = DType::kQ8_0,
          .embedding = DType::kQ8_0,
          .seed = 3};
}

}  // namespace baton::testing
