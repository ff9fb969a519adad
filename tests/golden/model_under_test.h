#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kernels/backend.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::testing {

// A file under shared/models: BATON_SHARED, else ../shared beside the checkout; empty when it is not there.
std::string shared_model(const std::string& relative);
// The default model: BATON_SMOLLM2; empty when it is not set or not there.
std::string smollm2_path();
// Long checks run with BATON_SLOW=1.
bool slow_tests();

struct EngineSetup {
  std::string device = "reference";
  int threads = 1;
  std::string isa_limit;
  kernels::Numerics numerics = kernels::Numerics::kFloat;
  kernels::KvType kv = kernels::KvType::kF32;
  int block_tokens = 16;
  int64_t blocks = 160;
  int32_t max_rows = 512;
  uint64_t block_seed = 1;  // block tables are drawn from the pool in this random order
  std::function<void(worker::ModelSpec&)> change_spec;  // to plant an error
};

// A model with a backend, a KV pool and a runner, driven by hand: no scheduler. Owns all of it.
// Thread: one. Errors: open() as ModelFile and Backend; the rest aborts, as tests do.
class ModelUnderTest {
 public:
  static absl::StatusOr<std::unique_ptr<ModelUnderTest>> open(const std::string& path,
                                                              const EngineSetup& setup);

  const worker::ModelFile& file() const { return *file_; }
  worker::LlamaModel& model() { return *model_; }
  worker::ModelRunner& runner() { return *runner_; }
  kernels::Backend& backend() { return *backend_; }

  // A sequence with blocks for `capacity` tokens (0: for its tokens), greedy, without stop tokens.
  worker::Sequence make_sequence(std::vector<TokenId> prompt, int64_t capacity = 0);
  void free_blocks(worker::Sequence& sequence);
  void free_all_blocks();

  // One step of exactly these rows.
  worker::StepResult run(const std::vector<worker::PlannedRows>& rows,
                         const worker::LayerListener& on_layer = nullptr);

  // Feeds `tokens` and hands over the logits of the wanted positions (ascending).
  using OnLogits = std::function<void(int32_t position, std::span<const float> logits)>;
  void forward(std::span<const TokenId> tokens, std::span<const int32_t> wanted, const OnLogits& on_logits);
  // The greedy continuation of `prompt`.
  std::vector<TokenId> greedy(std::vector<TokenId> prompt, int count);

 private:
  ModelUnderTest() = default;

  struct FreePool {
    void operator()(std::byte* p) const;
  };
  SteadyClock clock_;
  std::unique_ptr<worker::ModelFile> file_;
  std::unique_ptr<std::byte, FreePool> pool_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<worker::LlamaModel> model_;
  std::unique_ptr<worker::ModelRunner> runner_;
  EngineSetup setup_;
  std::vector<BlockId> free_;
  uint64_t next_sequence_ = 1;
};

double log_sum_exp(std::span<const float> logits);
TokenId argmax(std::span<const float> logits);

}  // namespace baton::testing
