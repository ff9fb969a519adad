#include "kernels/cuda/step_graphs.h"

#include "kernels/cuda/device_memory.h"

namespace baton::kernels::cuda {
namespace {

// FNV-1a over words: the order counts.
uint64_t mixed(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x100000001b3u; }
constexpr uint64_t kSeed = 0xcbf29ce484222325u;

}  // namespace

absl::StatusOr<StepGraphs::Mode> StepGraphs::begin_step(int32_t bucket, cudaStream_t stream) {
  bucket_ = bucket;
  fingerprint_ = kSeed;
  mode_ = Mode::kEager;
  if (bucket == 0) return mode_;
  const auto [graph, first] = graphs_.try_emplace(bucket);
  if (first) return mode_;
  if (graph->second.executable != nullptr) return mode_ = Mode::kReplay;
  RETURN_IF_ERROR(
      to_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a step"));
  return mode_ = Mode::kCapture;
}

bool StepGraphs::announce(uint64_t operation, const void* a, const void* b) {
  fingerprint_ = mixed(mixed(mixed(fingerprint_, operation), reinterpret_cast<uint64_t>(a)),
                       reinterpret_cast<uint64_t>(b));
  return mode_ != Mode::kReplay;
}

absl::Status StepGraphs::end_step(cudaStream_t stream) {
  if (mode_ == Mode::kEager) return absl::OkStatus();
  Graph& graph = graphs_[bucket_];
  if (mode_ == Mode::kCapture) {
    cudaGraph_t captured = nullptr;
    RETURN_IF_ERROR(to_status(cudaStreamEndCapture(stream, &captured), "ending the capture of a step"));
    const cudaError_t error = cudaGraphInstantiate(&graph.executable, captured, 0);
    cudaGraphDestroy(captured);
    RETURN_IF_ERROR(to_status(error, "making a graph of a step"));
    graph.fingerprint = fingerprint_;
  }
  if (graph.fingerprint != fingerprint_)
    return absl::InternalError("a decode step has other operations than the graph of its size");
  return to_status(cudaGraphLaunch(graph.executable, stream), "launching the graph of a step");
}

void StepGraphs::drop() {
  for (auto& [bucket, graph] : graphs_)
    if (graph.executable != nullptr) cudaGraphExecDestroy(graph.executable);
  graphs_.clear();
}

}  // namespace baton::kernels::cuda
