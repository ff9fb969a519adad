#pragma once

#include <span>
#include <string>

#include "cli/cluster/manifest.h"

namespace baton::cli {

// Fixed ports of pools: process n of a pool takes controlPort + n, dataPort + n, metricsPort + n (n = worker
// x ranks + rank; rank 0 only, but for dataPort), and rank 0 of a group its rendezvous. Says which two meet
// at one port of one machine, or which is no port at all; empty when all is well. Machines are told apart by
// `hosts`; pools without them may be anywhere, so only their own processes are compared.
std::string port_clash(std::span<const PoolManifest> pools);

}  // namespace baton::cli
