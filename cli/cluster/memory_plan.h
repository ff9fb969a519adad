#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {

// What this process may use at most.
struct MemoryLimit {
  uint64_t bytes = 0;
  std::string source;  // "RAM", or "cgroup <path>"
};

// The smallest of the machine's RAM and the limits of this process's cgroup and those above it (version 1 and
// 2). `root` is put before /proc and /sys: tests have trees of their own.
MemoryLimit read_memory_limit(const std::string& root = "");

// What one worker's memory goes to, known before it is taken.
struct MemoryPlan {
  static constexpr uint64_t kProgram = uint64_t{64} << 20;  // code, libraries, queues, connections

  uint64_t weights = 0;  // packed
  uint64_t kv_blocks = 0;
  uint64_t kv_block_bytes = 0;
  uint64_t host_blocks = 0;  // of kv.hostMemory, as large as those of the pool
  uint64_t host_block_bytes = 0;
  uint64_t activations = 0;
  uint64_t mapped_file = 0;  // shared with other workers, leaves memory when it gets scarce: not in the total

  uint64_t kv() const { return kv_blocks * kv_block_bytes; }
  uint64_t host() const { return host_blocks * host_block_bytes; }
  uint64_t total() const { return weights + kv() + host() + activations + kProgram; }
  // "weights 92 MiB + KV 512 MiB (1456 blocks of 360 KiB) + activations 21 MiB + program 64 MiB = 689 MiB;
  // model file 94 MiB, mapped; limit 23.5 GiB (RAM)"; "+ KV in host memory 2 GiB (5824 blocks)" where asked
  // for
  std::string text(const MemoryLimit& limit) const;
  // kResourceExhausted when the total is more than the limit, with what to change in pool `pool`.
  absl::Status check(const MemoryLimit& limit, const std::string& pool) const;
};

// The same of a GPU's memory.
struct DeviceMemoryPlan {
  std::string device;
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t activations = 0;
  uint64_t rest = 0;  // partial results, graphs, the runtime
  uint64_t free = 0;  // before anything was taken

  uint64_t without_kv() const { return weights + activations + rest; }
  // "weights 15.3 GiB + KV 64 GiB + activations 1.2 GiB + graphs and scratch 1 GiB = 81.5 GiB of 138 GiB
  // free on cuda:0 NVIDIA H200, 132 SMs, 139 GiB"; then how large kv.memory could be, when twice as much fits
  std::string text() const;
  absl::Status check(const std::string& pool) const;
};

// All workers of a manifest on this machine together, before any of them is started: KV pools, KV in host
// memory, and weights as large as the model's files; on GPUs these are theirs. kResourceExhausted with what
// to change.
absl::Status check_cluster_memory(const ClusterManifest& manifest, const MemoryLimit& limit);
// The same when only so many processes of each pool run on this machine.
absl::Status check_cluster_memory(const ClusterManifest& manifest, const std::vector<int>& processes,
                                  const MemoryLimit& limit);

// Where a worker leaves its plan for `serve` and `ps`: a file of Home::state.
std::string memory_plan_file(const std::string& worker);

}  // namespace baton::cli
