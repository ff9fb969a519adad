#include "cli/cluster/memory_plan.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/cat.h"
#include "base/units.h"
#include "kernels/cuda/device_name.h"

namespace baton::cli {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// The number a file starts with; kNoLimit when there is none ("max") or no file.
uint64_t number_in(const std::string& path) {
  std::ifstream in(path);
  uint64_t value = 0;
  return in >> value ? value : kNoLimit;
}

uint64_t ram_bytes(const std::string& root) {
  std::ifstream in(root + "/proc/meminfo");
  for (std::string key; in >> key;) {
    uint64_t kilobytes = 0;
    if (key == "MemTotal:" && in >> kilobytes) return kilobytes * 1024;
  }
  return kNoLimit;
}

// The path of this process in the hierarchy that counts memory, and the name of the file with its limit.
struct Cgroup {
  std::string base, path, file;
};
Cgroup memory_cgroup(const std::string& root) {
  Cgroup found;
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path", or "9:memory:/path"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers == "memory")
      return {"/sys/fs/cgroup/memory", line.substr(second + 1), "memory.limit_in_bytes"};
    if (controllers.empty()) found = {"/sys/fs/cgroup", line.substr(second + 1), "memory.max"};
  }
  return found;
}

uint64_t model_bytes(const std::string& source) {
  std::error_code error;
  if (!std::filesystem::is_directory(source, error)) {
    const uint64_t size = std::filesystem::file_size(source, error);
    return error ? 0 : size;
  }
  uint64_t sum = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source, error))
    if (entry.path().extension() == ".safetensors") sum += entry.file_size(error);
  return sum;
}

}  // namespace

MemoryLimit read_memory_limit(const std::string& root) {
  MemoryLimit limit{ram_bytes(root), "RAM"};
  const Cgroup cgroup = memory_cgroup(root);
  if (cgroup.file.empty()) return limit;
  for (std::string path = cgroup.path;; path.resize(path.rfind('/'))) {
    while (path.ends_with('/')) path.pop_back();
    const uint64_t bytes = number_in(cat(root, cgroup.base, path, "/", cgroup.file));
    if (bytes < limit.bytes) limit = {bytes, cat("cgroup ", path.empty() ? "/" : path)};
    if (path.find('/') == path.npos) break;
  }
  return limit;
}

std::string MemoryPlan::text(const MemoryLimit& limit) const {
  return cat("weights ", format_bytes(weights), " + KV ", format_bytes(kv()), " (", kv_blocks, " blocks of ",
             format_bytes(kv_block_bytes), ")",
             host_blocks > 0
                 ? cat(" + KV in host memory ", format_bytes(host()), " (", host_blocks, " blocks)")
                 : "",
             " + activations ", format_bytes(activations), " + program ", format_bytes(kProgram), " = ",
             format_bytes(total()), "; model file ", format_bytes(mapped_file), ", mapped; limit ",
             format_bytes(limit.bytes), " (", limit.source, ")");
}

absl::Status MemoryPlan::check(const MemoryLimit& limit, const std::string& pool) const {
  if (total() <= limit.bytes) return absl::OkStatus();
  const uint64_t pool_only = total() - host();
  const uint64_t rest = pool_only - kv();
  std::string change = "take a smaller model or a larger machine: not even the rest fits without KV";
  if (pool_only <= limit.bytes) {
    change = cat("lower spec.pools.", pool, ".kv.hostMemory to ", format_bytes(limit.bytes - pool_only),
                 " at most");
  } else if (limit.bytes > rest + 2 * kv_block_bytes) {
    change = cat("lower spec.pools.", pool, ".kv.memory to ", format_bytes(limit.bytes - rest), " at most",
                 host_blocks > 0 ? ", without kv.hostMemory" : "");
  }
  return absl::ResourceExhaustedError(cat("not enough memory: ", text(limit), "; ", change));
}

std::string DeviceMemoryPlan::text() const {
  std::string out = cat("weights ", format_bytes(weights), " + KV ", format_bytes(kv), " + activations ",
                        format_bytes(activations), " + graphs and scratch ", format_bytes(rest), " = ",
                        format_bytes(without_kv() + kv), " of ", format_bytes(free), " free on ", device);
  if (without_kv() + 2 * kv <= free) out += cat("; kv.memory could be ", format_bytes(free - without_kv()));
  return out;
}

absl::Status DeviceMemoryPlan::check(const std::string& pool) const {
  if (without_kv() + kv <= free) return absl::OkStatus();
  const std::string change =
      without_kv() < free
          ? cat("lower spec.pools.", pool, ".kv.memory to ", format_bytes(free - without_kv()), " at most")
          : cat("the model does not fit: set spec.pools.", pool,
                ".quantization: fp8, or parallel.tensor for more GPUs, lower batch.tokens, or take a smaller "
                "model");
  return absl::ResourceExhaustedError(
      cat("not enough memory on the GPU: ", text(), "; ", change, "; nvidia-smi shows who else uses it"));
}

absl::Status check_cluster_memory(const ClusterManifest& manifest, const MemoryLimit& limit) {
  return check_cluster_memory(manifest, manifest.processes_of_pools(), limit);
}

absl::Status check_cluster_memory(const ClusterManifest& manifest, const std::vector<int>& processes,
                                  const MemoryLimit& limit) {
  const uint64_t model = model_bytes(manifest.model_source);
  uint64_t kv = 0, rest = 0;
  int all = 0;
  for (size_t i = 0; i < processes.size(); ++i) {
    const PoolManifest& pool = manifest.pools[i];
    // Weights and KV of a GPU are in its own memory. The ranks of a worker share its weights out between
    // them.
    const bool gpu = kernels::cuda::DeviceName::is_cuda(pool.device);
    kv += processes[i] * ((gpu ? 0 : pool.kv_memory_bytes) + pool.kv_host_memory_bytes);
    rest += processes[i] * ((gpu ? 0 : model / pool.ranks()) + MemoryPlan::kProgram);
    all += processes[i];
  }
  if (kv + rest <= limit.bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      cat("not enough memory: ", all, all == 1 ? " worker wants " : " workers want ", format_bytes(kv),
          " of KV and about ", format_bytes(rest), " for weights and program; the limit is ",
          format_bytes(limit.bytes), " (", limit.source,
          "): lower kv.memory, kv.hostMemory or replicas in spec.pools, or take a smaller model"));
}

std::string memory_plan_file(const std::string& worker) { return cat("memory-", worker, ".txt"); }

}  // namespace baton::cli
