#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kernels/backend.h"
#include "transport/data/peer_pool.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::cli {

struct SteppedModelOptions {
  kernels::BackendOptions backend;
  kernels::KvType kv = kernels::KvType::kBF16;
  int32_t step_rows = 512;     // rows of the largest step: a prefill chunk, or the batch
  int64_t max_positions = 0;   // longest sequence
  int64_t pool_positions = 0;  // positions of all sequences of the largest batch together
};

// A model stepped by hand exactly as a worker steps it: same backend, weights, runner, sampler, block tables
// and the same kind of KV pool, only without a scheduler. Sequences have the prompt tokens in common up to
// the depth they start from, so that depth is computed once and its KV copied into every sequence's own
// blocks; from there each has tokens of its own. Greedy. Borrows the file. Thread: one. Errors: no room for
// the KV, what the backend refuses, a failed step.
class SteppedModel {
 public:
  static constexpr int kBlockTokens = 16;

  static absl::StatusOr<std::unique_ptr<SteppedModel>> open(const worker::ModelFile& file,
                                                            const SteppedModelOptions& options);

  // `count` sequences whose first `depth` positions are computed; each has room for `tokens` more.
  absl::Status start(int count, int64_t depth, int64_t tokens);
  // Forgets what was computed past the depth.
  void rewind();
  // The next `tokens` prompt tokens of the only sequence, in chunks of step_rows; samples after the last.
  absl::Status prefill(int64_t tokens);
  // One token of every sequence.
  absl::Status decode();

  // Arithmetic of all steps so far, without laying out and sampling.
  Duration computed() const { return compute_; }
  const worker::LlamaModel& model() const { return *model_; }
  const kernels::Backend& backend() const { return *backend_; }
  const kernels::KvGeometry& geometry() const { return geometry_; }
  // The tokens of a sequence so far: prompt up to the depth, one of its own, then what was drawn.
  std::span<const TokenId> tokens(int sequence) const { return sequences_[sequence].tokens; }

 private:
  SteppedModel() = default;
  absl::Status compute(worker::Sequence& sequence, int64_t from, int64_t to, bool sample);
  void copy_blocks(int64_t positions, size_t blocks_per_sequence);
  absl::Status step();

  SteadyClock clock_;
  std::unique_ptr<transport::SharedPool> pool_;
  std::unique_ptr<kernels::Backend> backend_;
  std::unique_ptr<worker::LlamaModel> model_;
  std::unique_ptr<worker::ModelRunner> runner_;
  kernels::KvGeometry geometry_;
  std::vector<TokenId> prompt_;
  std::vector<worker::Sequence> sequences_;
  int64_t depth_ = 0;
  int64_t computed_ = 0;  // prompt positions whose KV is in the blocks of sequence 0
  worker::StepPlan plan_;
  worker::StepResult result_;
  Duration compute_{};
};

}  // namespace baton::cli
