#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>

#include "base/status.h"

namespace baton::kernels::cuda {

// Decode steps as CUDA graphs, one for each bucket of rows. The first step of a bucket runs eagerly (it
// brings norms and plans to where they are needed), the second is captured, the others are replayed. A
// replayed step still announces its operations: their fingerprint must be the captured one, so that a model
// that changes its ways gets an error, not another model's tokens. Dropped as a whole when memory that they
// point to moves. Thread: the engine's.
class StepGraphs {
 public:
  enum class Mode { kEager, kCapture, kReplay };
  ~StepGraphs() { drop(); }

  // `bucket` 0: eager. In kCapture the stream records until end_step().
  absl::StatusOr<Mode> begin_step(int32_t bucket, cudaStream_t stream);
  // Called for each operation of the step; true when the backend has to launch it.
  bool announce(uint64_t operation, const void* a, const void* b);
  // Launches what was captured.
  absl::Status end_step(cudaStream_t stream);
  void drop();
  size_t count() const { return graphs_.size(); }

 private:
  struct Graph {
    cudaGraphExec_t executable = nullptr;
    uint64_t fingerprint = 0;
  };
  std::map<int32_t, Graph> graphs_;  // executable null: seen once
  Mode mode_ = Mode::kEager;
  int32_t bucket_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace baton::kernels::cuda
