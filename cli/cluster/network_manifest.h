#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/config_file.h"

namespace baton::cli {

// A file that the manifest names, and where it does ("file:line:column: key"): what is wrong with the file is
// found on the machine that has it, later.
struct NamedFile {
  std::string path;
  std::string place;
};

// Certificate and key of one side, and the name that its certificate carries: the other side asks for it, so
// that a worker cannot pose as coordinator.
struct TlsSide {
  NamedFile certificate, key;
  std::string name;
};

struct TlsManifest {
  NamedFile ca;  // of this cluster only: whoever has a certificate of it is let in
  TlsSide coordinator{.name = "coordinator"};
  TlsSide worker{.name = "worker"};
};

// Between coordinator and workers (gRPC).
struct ControlManifest {
  std::string listen = "127.0.0.1:0";  // of the coordinator's membership service; port 0: a free one
  std::string join;                    // where workers find it, when that is not `listen`
  bool insecure_plaintext = false;     // allows addresses off loopback without TLS
  std::optional<TlsManifest> tls;

  // What a worker connects to when no flag says; empty when the manifest does not.
  std::string join_address() const;
};

// Where the workers of a pool listen. Each entry is an address of the machine ("10.0.0.2"), or a network in
// which it has one ("10.0.0.0/24"), so that one file fits all machines; empty: where the route to the
// coordinator starts. Process n of the pool (worker index x ranks + rank) takes port + n; 0: any.
struct NetworkManifest {
  std::string control;
  int control_port = 0;
  std::string data;  // KV
  int data_port = 0;
  std::string metrics;  // /metrics, /live, /ready over HTTP; empty: loopback
  int metrics_port = 0;
  bool insecure_metrics = false;  // allows `metrics` off loopback: anybody may read them
};

// A file that must be named, absolute when `folder` is. `what` says what is wanted when there is none.
NamedFile read_file_name(ConfigObject& object, const char* key, const std::string& folder,
                         std::string_view what);
// Relative file names are taken from `folder`.
ControlManifest read_control(ConfigObject control, const std::string& folder);
NetworkManifest read_network(ConfigObject network);

// As the manifest has them; empty for the defaults.
std::string control_yaml(const ControlManifest& control);
std::string network_yaml(const NetworkManifest& network);

}  // namespace baton::cli
