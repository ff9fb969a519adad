#include "tests/golden/random_file.h"

#include "base/check.h"

namespace baton::testing {

RandomFile::RandomFile(const RandomModelOptions& options) {
  BATON_CHECK(RandomModel(options).write_gguf(path_), path_.c_str());
}

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
