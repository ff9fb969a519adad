#include "cli/cluster/pool_ports.h"

#include <map>

#include "base/cat.h"
#include "cli/cluster/rank_place.h"

namespace baton::cli {
namespace {

constexpr int kLargest = 65535;

struct Ports {
  std::map<std::string, std::string> taken;  // "machine address port" -> who
  std::string clash;

  void take(const std::string& place, int port, const std::string& who) {
    if (port > kLargest && clash.empty())
      clash = cat(who, " would be ", port, "; the largest port is ", kLargest);
    const auto [it, fresh] = taken.try_emplace(cat(place, " ", port), who);
    if (!fresh && clash.empty())
      clash = cat(who, " and ", it->second, " are port ", port,
                  " of one machine: each process takes the first port + its number (worker x ranks + rank)");
  }
};

void take_ports(const PoolManifest& pool, int index, int rank, Ports& ports) {
  const NetworkManifest& n = pool.network;
  const std::string process = rank_name(cat(pool.name, "-", index), rank);
  const std::string machine = pool.hosts.empty() ? cat("pool ", pool.name) : pool.host_of(index, rank);
  const int number = index * pool.ranks() + rank;
  const auto take = [&](const char* key, const std::string& address, int first) {
    if (first > 0)
      ports.take(cat(machine, " ", address), first + number, cat("network.", key, " of ", process));
  };
  take("dataPort", n.data.empty() ? n.control : n.data, n.data_port);
  if (rank > 0) return;
  take("controlPort", n.control, n.control_port);
  take("metricsPort", n.metrics.empty() ? "127.0.0.1" : n.metrics, n.metrics_port);
  if (pool.ranks() > 1 && !pool.hosts.empty())
    ports.take(cat(machine, " ", n.control), pool.rendezvous_port + index, cat("parallel.port of ", process));
}

}  // namespace

std::string port_clash(std::span<const PoolManifest> pools) {
  Ports ports;
  for (const PoolManifest& pool : pools)
    for (int index = 0; index < pool.replicas; ++index)
      for (int rank = 0; rank < pool.ranks(); ++rank) take_ports(pool, index, rank, ports);
  return ports.clash;
}

}  // namespace baton::cli
