#include "cli/cluster/host_places.h"

#include <strings.h>
#include <unistd.h>

#include <algorithm>

#include "base/cat.h"
#include "cli/cluster/host_address.h"
#include "cli/cluster/worker_address.h"
#include "kernels/cuda/device_name.h"

namespace baton::cli {
namespace {

std::string place_text(const PoolManifest& pool, const ProcessPlace& place) {
  return pool.ranks() == 1 ? cat("--index ", place.index)
                           : cat("--index ", place.index, " --rank ", place.rank);
}

}  // namespace

bool HostNames::has(const std::string& host) const {
  return std::ranges::any_of(
      names, [&host](const std::string& name) { return ::strcasecmp(name.c_str(), host.c_str()) == 0; });
}

std::string HostNames::text() const { return join(names, ", "); }

HostNames own_host_names() {
  HostNames out;
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) == 0 && name[0] != '\0') {
    out.names.emplace_back(name);
    const std::string first = out.names[0].substr(0, out.names[0].find('.'));
    if (first != out.names[0]) out.names.push_back(first);
  }
  for (const std::string& address : local_network().addresses())
    if (!is_loopback_host(address)) out.names.push_back(address);
  return out;
}

std::vector<ProcessPlace> places_here(const PoolManifest& pool, const HostNames& here) {
  std::vector<ProcessPlace> out;
  for (int index = 0; index < pool.replicas; ++index)
    for (int rank = 0; rank < pool.ranks(); ++rank)
      if (pool.hosts.empty() || here.has(pool.host_of(index, rank))) out.push_back({index, rank});
  return out;
}

std::string rendezvous_from_hosts(const PoolManifest& pool, int index) {
  if (pool.hosts.empty() || pool.ranks() == 1) return "";
  return join_host_port(pool.host_of(index, 0), pool.rendezvous_port + index);
}

absl::StatusOr<ProcessPlace> own_place(const PoolManifest& pool, ProcessPlace flags, const HostNames& here) {
  if (pool.hosts.empty() || (flags.index >= 0 && (flags.rank >= 0 || pool.ranks() == 1)))
    return ProcessPlace{std::max(flags.index, 0), flags.rank};
  std::vector<ProcessPlace> fitting;
  for (const ProcessPlace& p : places_here(pool, here))
    if ((flags.index < 0 || flags.index == p.index) && (flags.rank < 0 || flags.rank == p.rank))
      fitting.push_back(p);
  if (fitting.size() == 1) return fitting[0];
  if (fitting.empty())
    return absl::InvalidArgumentError(cat("pool ", pool.name, ": this machine (", here.text(),
                                          ") is none of its hosts (", join(pool.hosts, ", "),
                                          "); correct `hosts`, or give --index"));
  std::vector<std::string> texts;
  for (const ProcessPlace& p : fitting) texts.push_back(place_text(pool, p));
  return absl::InvalidArgumentError(cat("pool ", pool.name, ": ", fitting.size(),
                                        " of its processes run on this machine: which is this? ",
                                        join(texts, " or "), " (baton serve starts all of them)"));
}

bool names_hosts(const ClusterManifest& manifest) {
  return std::ranges::any_of(manifest.pools, [](const PoolManifest& p) { return !p.hosts.empty(); });
}

std::vector<int> processes_here(const ClusterManifest& manifest, const HostNames& here) {
  const bool coordinator = coordinator_here(manifest, here);
  std::vector<int> out;
  for (const PoolManifest& p : manifest.pools)
    out.push_back(p.hosts.empty() && !coordinator ? 0 : static_cast<int>(places_here(p, here).size()));
  return out;
}

std::string device_of(const PoolManifest& pool, ProcessPlace process) {
  using kernels::cuda::DeviceName;
  if (pool.ranks() == 1 || !DeviceName::is_cuda(pool.device)) return pool.device;
  const auto first = DeviceName::parse(pool.device);
  if (!first.ok() || !first->uuid.empty()) return pool.device;
  const std::string here = pool.hosts.empty() ? "" : pool.host_of(process.index, process.rank);
  int gpu = first->index;
  for (int p = 0; p < process.index * pool.ranks() + process.rank; ++p)
    gpu += pool.hosts.empty() || pool.host_of(p / pool.ranks(), p % pool.ranks()) == here;
  return cat("cuda:", gpu);
}

bool coordinator_here(const ClusterManifest& manifest, const HostNames& here) {
  if (!names_hosts(manifest)) return true;
  const auto join = split_host_port(manifest.control.join_address());
  return !join || is_loopback_host(join->host) || here.has(join->host);
}

}  // namespace baton::cli
