#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/device_options.h"
#include "transport/collectives/communicator.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"
#include "worker/parallel/plan_broadcast.h"

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
  kernels::DeviceOptions device_options;
  worker::ModelFile::Fp8Matrices fp8_matrices = worker::ModelFile::Fp8Matrices::kOpened;
  kernels::KvType kv = kernels::KvType::kF32;
  int block_tokens = 16;
  int64_t blocks = 160;
  int32_t max_rows = 512;
  uint64_t block_seed = 1;  // block tables are drawn from the pool in this random order
  std::function<void(worker::ModelSpec&)> change_spec;  // to plant an error
  // More than one rank: the others are threads of this process, over shared memory.
  worker::ParallelShape shape;
  int micro_batches = 4;
  int32_t micro_batch_rows = 32;
  worker::TokenMasks* masks = nullptr;  // of answers with a grammar
  bool full_logits = true;              // false: ranks send candidates where they are enough
  // Where the KV of a rank lies (default: memory of its own), and who hears of a follower's layers.
  std::function<std::span<std::byte>(int rank, size_t bytes)> pool;
  std::function<void(int rank, int layer, const worker::BatchRows& rows)> on_layer;
};

// A model with a backend, a KV pool and a runner, driven by hand: no scheduler. Of a group it is rank 0, and
// the other ranks follow on threads of their own. Owns all of it. Thread: one. Errors: open() as ModelFile
// and Backend; the rest aborts, as tests do.
class ModelUnderTest {
 public:
  static absl::StatusOr<std::unique_ptr<ModelUnderTest>> open(const std::string& path,
                                                              const EngineSetup& setup);
  ~ModelUnderTest();
  // Ends the other ranks; nothing may be run after it. What each rank did, rank 0 first.
  std::vector<worker::RankTime> stop();

  const worker::ModelFile& file() const { return *file_; }
  worker::LlamaModel& model() { return *ranks_[0]->model; }
  worker::ModelRunner& runner() { return *runner_; }
  kernels::Backend& backend() { return *ranks_[0]->backend; }

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
  // Destroyed in reverse: the pool outlives the backend that writes it.
  struct Rank {
    std::unique_ptr<Communicator> world, stage;  // stage: nullptr when it is all of the world
    std::unique_ptr<Communicator> results;       // of a pipeline
    std::unique_ptr<worker::ResultOutbox> outbox;
    std::jthread sender;  // of the outbox
    std::unique_ptr<worker::RankLinks> links;
    std::unique_ptr<std::byte, FreePool> pool;
    std::unique_ptr<kernels::Backend> backend;
    std::unique_ptr<worker::LlamaModel> model;
    worker::RankTime time;  // of a follower, at its end
  };
  absl::Status connect();
  absl::Status connect_results();
  absl::Status load(int rank);
  void follow(int rank);
  worker::PlanLimits limits() const;

  SteadyClock clock_;
  std::unique_ptr<worker::ModelFile> file_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::unique_ptr<worker::PlanSender> plans_;
  std::unique_ptr<worker::ModelRunner> runner_;
  std::vector<std::thread> followers_;
  EngineSetup setup_;
  std::vector<BlockId> free_;
  uint64_t next_sequence_ = 1;
};

double log_sum_exp(std::span<const float> logits);
TokenId argmax(std::span<const float> logits);

}  // namespace baton::testing
