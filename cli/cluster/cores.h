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

// The cores this process may use: its affinity, and no more of them than the CPU quota of its cgroup pays for
// (whole cores, at least one).
std::vector<int> allowed_cores();

// Quota of cgroup v2's "cpu.max" ("150000 100000", "max 100000") in whole cores, at least 1; 0 = no limit.
int cores_of_quota(const std::string& cpu_max);

// Shares `cores` out to the ranks of the workers of all pools, in the order of the manifest, pool by pool.
// Pools with resources.cpu get that; the others share what is left, the first ones one core more when it does
// not come out even. Each worker gets neighbouring cores of its own as long as there are enough for all;
// otherwise nobody is pinned, and a worker has as many threads as it would have had, one at least. Example: 5
// cores, pools prefill x 1 (cpu 2) and decode x 2: 2 + 2 + 1, cores {0 1} {2 3} {4}.
std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const std::vector<int>& cores);
// The same when only so many processes of each pool run on this machine.
std::vector<WorkerCores> split_cores(const ClusterManifest& manifest, const std::vector<int>& processes,
                                     const std::vector<int>& cores);

// " on cores 0,1", ", not pinned" when empty.
std::string on_cores(const std::vector<int>& cpus);
// "2 threads on cores 0,1", "1 thread, not pinned"
std::string cores_text(int threads, const std::vector<int>& cpus);

}  // namespace baton::cli
