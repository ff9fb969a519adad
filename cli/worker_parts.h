#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "cli/cluster/manifest.h"
#include "cli/cluster/memory_plan.h"
#include "cli/cluster/worker_address.h"
#include "cli/commands.h"
#include "cli/rank_group.h"
#include "kernels/device.h"
#include "kernels/device_options.h"
#include "transport/data/data_plane.h"
#include "worker/engine/engine_loop.h"
#include "worker/engine/follower_loop.h"
#include "worker/grammar/grammar_masks.h"
#include "worker/kv_transfer/host_copier.h"
#include "worker/kv_transfer/kv_exchange_agent.h"
#include "worker/model/llama_model.h"
#include "worker/model/model_file.h"
#include "worker/model/model_runner.h"

namespace baton::cli {

// Which process of its pool this is: flags, an orchestrator or the pool's `hosts` say.
struct OwnPlace {
  int index = 0;  // of the worker
  RankPlace rank;
};
absl::StatusOr<OwnPlace> find_own_place(const PoolManifest& pool, const WorkerOptions& options);

// Called on the progress thread.
struct ExchangeSinks {
  worker::PeerReportSink peers;
  std::function<void(const std::string& why)> lost;  // a rank of this worker is gone
};

// A start ended because another rank of the group is gone or silent: that one is to blame, not this process.
bool is_rank_lost(const absl::Status& start);

// The parts of one worker that compute and move KV, in the order in which they are made. Members are
// destroyed in reverse: the pool (data plane) outlives the backend that writes it. Thread: main makes and
// ends them.
struct WorkerParts {
  SteadyClock clock;
  ClusterManifest manifest;
  PoolManifest pool;              // stage_layers: as they are, once they are measured
  WorkerDescription description;  // control_address is filled in by the control server
  int index = 0;                  // of the worker in its pool
  RankPlace place;                // which rank of the worker this process is
  std::string join;               // the coordinator's membership service; rank 0 only
  WorkerAddresses addresses;
  std::unique_ptr<worker::ModelFile> file;
  std::unique_ptr<RankGroup> group;             // empty in a worker of one rank
  std::unique_ptr<transport::DataPlane> plane;  // of every rank
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<worker::LlamaModel> model;
  std::unique_ptr<worker::PlanSender> plans;    // rank 0 of a group
  std::unique_ptr<worker::GrammarMasks> masks;  // of answers with a grammar; rank 0 only
  std::unique_ptr<worker::ModelRunner> runner;
  std::unique_ptr<worker::EngineMailbox> mailbox;
  std::unique_ptr<worker::HostCopier> host_copier;    // of every rank, with kv.hostMemory
  std::unique_ptr<worker::KvExchangeAgent> exchange;  // of every rank
  std::unique_ptr<worker::Engine> engine;
  std::unique_ptr<worker::PagesAhead> ahead;  // of the engine, where the KV is in host memory
  std::unique_ptr<worker::FollowerLoop>
      follower;  // in place of runner, mailbox and engine, on every other rank

  // Reads the manifest, maps the model, refuses what the memory cannot hold, meets the other ranks, packs the
  // weights, takes the KV pool. The ranks of a pipeline whose stages nobody named meet first and measure.
  static absl::StatusOr<std::unique_ptr<WorkerParts>> make(const WorkerOptions& options, ExchangeSinks sinks);
  MemoryPlan memory;
  MemoryLimit memory_limit;
  std::optional<DeviceMemoryPlan> device_memory;
  std::string memory_text() const;
  int32_t layers_of(int rank) const;  // of a worker of several
  // A KV block over all of its layers: on the rank whose part of it is the largest, and on all ranks
  // together.
  struct BlockBytes {
    size_t largest = 0;
    size_t all = 0;
  };
  BlockBytes block_bytes;
  Duration load_time{};  // of opening the file, packing the weights and taking the pool

 private:
  absl::Status read(const WorkerOptions& options);
  absl::Status find_place(const WorkerOptions& options);
  absl::Status find_addresses(const WorkerOptions& options);
  absl::Status load(const WorkerOptions& options, ExchangeSinks sinks);
  absl::StatusOr<std::unique_ptr<kernels::Backend>> make_backend(const WorkerOptions& options) const;
  std::unique_ptr<worker::GrammarMasks> make_masks() const;
  absl::Status form_ranks();
  absl::Status measure_stages(const WorkerOptions& options);
  bool stages_known() const { return pool.pipeline == 1 || !pool.stage_layers.empty(); }
  absl::StatusOr<std::span<std::byte>> take_pool(const kernels::KvGeometry& geometry);
  absl::Status check_device() const;
  absl::Status check_algorithms() const;
  absl::Status load_model(worker::ModelShard shard, const kernels::KvGeometry& geometry);
  absl::Status make_exchange(const kernels::KvGeometry& geometry, ExchangeSinks sinks);
  absl::Status make_host_copier(const kernels::KvGeometry& geometry);
  absl::Status make_engine();
  void tell_engine(worker::EngineCommand event);
  absl::StatusOr<BlockBytes> weigh_block() const;
  int64_t host_blocks() const;
  void describe(const WorkerOptions& options, const kernels::KvGeometry& geometry);
  int32_t context_tokens() const;
  worker::ParallelShape shape() const {
    return {.tensor = pool.tensor, .pipeline = pool.pipeline, .stage_layers = pool.stage_layers};
  }
  worker::PlanLimits plan_limits(const kernels::KvGeometry& geometry) const;
  absl::StatusOr<kernels::KvGeometry> geometry(const worker::ModelShard& shard) const;
  absl::StatusOr<worker::ModelShard> shard_of_rank(int rank) const;
  std::string device() const;
  kernels::DeviceOptions device_options() const;
  kernels::DeviceBackend* on_gpu() const { return kernels::device_backend(backend.get()); }
  MemoryPlan plan_memory(const worker::ModelShard& shard, const kernels::KvGeometry& geometry) const;
  absl::StatusOr<DeviceMemoryPlan> plan_device_memory(const worker::ModelShard& shard,
                                                      const kernels::KvGeometry& geometry) const;
};

}  // namespace baton::cli
