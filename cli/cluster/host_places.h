#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {

// What this machine is called: its host name, the part of it before the first dot, and its addresses, without
// those of loopback.
struct HostNames {
  std::vector<std::string> names;
  bool has(const std::string& host) const;
  std::string text() const;
};
HostNames own_host_names();

// One process of a pool: rank `rank` of worker `index`.
struct ProcessPlace {
  int index = 0;
  int rank = 0;
  friend bool operator==(const ProcessPlace&, const ProcessPlace&) = default;
};

// The processes of the pool that `hosts` puts on this machine; all of them when it names no hosts.
std::vector<ProcessPlace> places_here(const PoolManifest& pool, const HostNames& here);
// Where rank 0 of a worker listens for its other ranks, from `hosts`: each worker of the pool has a port.
// Empty: `hosts` does not say.
std::string rendezvous_from_hosts(const PoolManifest& pool, int index);

// Which process `baton worker` is when flags leave it open (-1): the one that `hosts` puts here. Without
// hosts the index is 0 and the rank stays -1: an orchestrator may know. Errors: none of them runs here;
// several do, which is then a question of --index and --rank.
absl::StatusOr<ProcessPlace> own_place(const PoolManifest& pool, ProcessPlace flags, const HostNames& here);

// Which device a process computes on. The ranks of a group need a GPU each: the pool's processes on one
// machine take them in order, from the one that it names on. Example, device cuda:2, two workers of two ranks
// on one machine: rank 1 of the second has cuda:5.
std::string device_of(const PoolManifest& pool, ProcessPlace process);

// Whether `serve` on this machine starts the coordinator: it is where workers join, or no pool names hosts.
bool coordinator_here(const ClusterManifest& manifest, const HostNames& here);
bool names_hosts(const ClusterManifest& manifest);
// How many processes of each pool `serve` starts on this machine. A pool without hosts is where the
// coordinator is.
std::vector<int> processes_here(const ClusterManifest& manifest, const HostNames& here);

}  // namespace baton::cli
