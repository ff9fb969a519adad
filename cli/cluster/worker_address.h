#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/cluster/manifest.h"

namespace baton::cli {

// What a process of a worker (every rank of it) was told about its addresses.
struct AddressQuestion {
  std::string listen;     // --listen HOST[:PORT]: the control connection
  std::string data;       // --data HOST[:PORT]: KV
  std::string advertise;  // --advertise HOST: what the coordinator connects to
  std::string metrics;    // --metrics ADDRESS[:PORT]
  NetworkManifest network;
  std::string join;                // the coordinator's membership service, host:port; rank 0 only, else empty
  std::string rendezvous;          // where rank 0 of the group listens; may be empty or unix:@name
  int number = 0;                  // of this process in its pool: worker index x ranks + rank
  bool control_protected = false;  // TLS, or the permission to do without
  bool data_protected = false;     // the same of KV
};

struct WorkerAddresses {
  std::string control_listen;  // host:port, port 0: any
  std::string control_host;    // what the coordinator connects to, with the port that the server got
  std::string data_host;       // numeric
  int data_port = 0;           // 0: any
  std::string metrics_listen;  // host:port, port 0: any
  std::string metrics_host;    // what others read them from
};

// This machine's network, as the rule below asks it.
struct LocalNetwork {
  // The address that packets to `host` leave from. Errors: the name is unknown, there is no route.
  std::function<absl::StatusOr<std::string>(const std::string& host)> source_of;
  std::function<std::vector<std::string>()> addresses;  // numeric, of all interfaces
};
LocalNetwork local_network();

// The one rule by which a process of a worker picks its addresses: the flag; else the pool's `network`; else
// where the route to the coordinator (for other ranks: to rank 0) starts. So a worker that joins on loopback
// stays on loopback, and one that joins another machine is reachable from there. Metrics stay on loopback
// unless `network.metrics` says otherwise.
// Example: --join 10.0.0.1:8001 on a machine with 10.0.0.2: control 10.0.0.2:0, data 10.0.0.2, any port.
// Errors: kInvalidArgument, an address that this machine does not have or that cannot be told to others;
// kFailedPrecondition, an address on the network that nothing protects and nobody allowed (design I9).
absl::StatusOr<WorkerAddresses> choose_addresses(const AddressQuestion& question,
                                                 const LocalNetwork& network);

}  // namespace baton::cli
