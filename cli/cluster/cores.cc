#include "cli/cluster/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/cat.h"

namespace baton::cli {
namespace {

// The smallest quota of this process's cgroup and those above it, as far as they are visible.
int quota_cores() {
  std::ifstream self("/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(self, line);)
    if (line.starts_with("0::")) path = line.substr(3);
  int least = 0;
  for (;;) {
    std::ifstream file(cat("/sys/fs/cgroup", path == "/" ? "" : path, "/cpu.max"));
    std::string text;
    if (std::getline(file, text)) {
      const int cores = cores_of_quota(text);
      if (cores > 0) least = least == 0 ? cores : std::min(least, cores);
    }
    if (path.empty() || path == "/") return least;
    path.resize(path.rfind('/'));
  }
}

}  // namespace

int cores_of_quota(const std::string& cpu_max) {
  std::istringstream text(cpu_max);
  int64_t quota = 0, period = 0;
  if (!(text >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<int64_t>(quota / period, 1, 1 << 20));
}

AllowedCores allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
  if (cores.empty()) cores.push_back(0);
  return allowed_cores(std::move(cores), quota_cores());
}

AllowedCores allowed_cores(std::vector<int> affinity, int quota) {
  const auto all = static_cast<int>(affinity.size());
  return {.cpus = std::move(affinity), .count = quota > 0 ? std::min(quota, all) : all};
}

std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const AllowedCores& cores) {
  return split_cores(manifest, manifest.processes_of_pools(), cores);
}

std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const std::vector<int>& processes,
                                     const AllowedCores& cores) {
  const int all = cores.count;
  int given = 0, sharers = 0;
  for (size_t i = 0; i < processes.size(); ++i) {
    const int cpu = manifest.pools[i].cpu;
    (cpu > 0 ? given : sharers) += processes[i] * std::max(cpu, 1);
  }
  const int left = std::max(all - given, 0);
  std::vector<WorkerCores> out;
  int sharer = 0, wanted = 0;
  for (size_t pool = 0; pool < processes.size(); ++pool) {
    const PoolManifest& p = manifest.pools[pool];
    for (int i = 0; i < processes[pool]; ++i) {
      WorkerCores worker{.threads = p.cpu};
      if (p.cpu == 0) worker.threads = std::max(1, left / sharers + (sharer++ < left % sharers));
      wanted += worker.threads;
      out.push_back(std::move(worker));
    }
  }
  if (wanted > all || !cores.are_ours()) return out;
  auto next = cores.cpus.begin();
  for (WorkerCores& worker : out) {
    worker.cpus.assign(next, next + worker.threads);
    next += worker.threads;
  }
  return out;
}

std::string on_cores(const std::vector<int>& cpus) {
  if (cpus.empty()) return ", not pinned";
  std::string text = cpus.size() == 1 ? " on core " : " on cores ";
  for (size_t i = 0; i < cpus.size(); ++i) text += cat(i > 0 ? "," : "", cpus[i]);
  return text;
}

std::string cores_text(int threads, const std::vector<int>& cpus) {
  return cat(threads, threads == 1 ? " thread" : " threads", on_cores(cpus));
}

}  // namespace baton::cli
