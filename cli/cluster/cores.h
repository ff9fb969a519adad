#pragma once

#include <string>
#include <vector>

#include "cli/cluster/manifest.h"

namespace baton::cli {

// The cores of one worker, or of one rank of it. Its pool has threads.size() threads; thread i is pinned to
// cpus[i], or none is.
struct WorkerCores {
  int threads = 1;
  std::vector<int> cpus;  // empty: not pinned, because there are not enough cores for everybody
};

// The cores that processes of ours may use.
struct AllowedCores {
  std::vector<int> cpus;  // their numbers
  int count = 1;          // so many at a time: fewer than cpus.size() under a CPU quota

  // A quota buys time on any core, and other containers have theirs on the same ones: then nobody is pinned.
  bool are_ours() const { return count == static_cast<int>(cpus.size()); }
};

// The affinity of this process, and no more cores at a time than the CPU quota of its cgroup pays for.
AllowedCores allowed_cores();
// The same of a known affinity and quota (whole cores; 0 = none).
AllowedCores allowed_cores(std::vector<int> affinity, int quota);

// Quota of cgroup v2's "cpu.max" ("150000 100000", "max 100000") in whole cores, at least 1; 0 = no limit.
int cores_of_quota(const std::string& cpu_max);

// Shares `cores` out to the ranks of the workers of all pools, in the order of the manifest, pool by pool.
// Pools with resources.cpu get that; the others share what is left, the first ones one core more when it does
// not come out even. Each worker gets neighbouring cores of its own as long as there are enough for all
// and no quota cuts them; otherwise nobody is pinned, and a worker has as many threads as it would have had,
// one at least. Example: 5 cores, pools prefill x 1 (cpu 2) and decode x 2: 2 + 2 + 1, cores {0 1} {2 3} {4}.
std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const AllowedCores& cores);
// The same when only so many processes of each pool run on this machine.
std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const std::vector<int>& processes,
                                     const AllowedCores& cores);

// " on cores 0,1", ", not pinned" when empty.
std::string on_cores(const std::vector<int>& cpus);
// "2 threads on cores 0,1", "1 thread, not pinned"
std::string cores_text(int threads, const std::vector<int>& cpus);

}  // namespace baton::cli
