#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/manifest.h"
#include "cli/memory_plan.h"
#include "kernels/backend.h"
#include "transport/data/data_plane.h"
#include "worker/engine/engine_loop.h"
#include "worker/kv_transfer/kv_exchange_agent.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::cli {

// The parts of one worker that compute and move KV, in the order in which they are made. Members are
// destroyed in reverse: the pool (data plane) outlives the backend that writes it. Thread: main makes and
// ends them.
struct WorkerParts {
  SteadyClock clock;
  ClusterManifest manifest;
  PoolManifest pool;
  WorkerDescription description;  // control_address is filled in by the control server
  std::unique_ptr<worker::ModelFile> file;
  std::unique_ptr<transport::DataPlane> plane;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<worker::LlamaModel> model;
  std::unique_ptr<worker::ModelRunner> runner;
  std::unique_ptr<worker::EngineMailbox> mailbox;
  std::unique_ptr<worker::KvExchangeAgent> exchange;
  std::unique_ptr<worker::Engine> engine;

  // Reads the manifest, maps the model, refuses what the memory cannot hold, packs the weights, takes the KV
  // pool. `on_peer` is called on the progress thread.
  static absl::StatusOr<std::unique_ptr<WorkerParts>> make(const WorkerOptions& options,
                                                           worker::PeerReportSink on_peer);
  MemoryPlan memory;
  MemoryLimit memory_limit;
  Duration load_time{};  // of opening the file, packing the weights and taking the pool

 private:
  absl::Status read(const WorkerOptions& options);
  absl::Status load(const WorkerOptions& options, worker::PeerReportSink on_peer);
  absl::Status make_engine();
  int32_t context_tokens() const;
  kernels::KvGeometry geometry() const;
  MemoryPlan plan_memory(const kernels::KvGeometry& geometry) const;
};

}  // namespace baton::cli
