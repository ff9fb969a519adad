#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/cluster/network_manifest.h"

namespace baton::cli {

// What the gateway shows to whoever connects.
struct GatewayTls {
  NamedFile certificate, key;
};

// The HTTP side of the coordinator.
struct GatewayManifest {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  std::string admin;              // host:port where operators' paths are served to everybody; empty: nowhere
  std::optional<GatewayTls> tls;  // without it HTTP is plain
  bool insecure_plaintext = false;  // allows a host off loopback without TLS, here and in `admin`
  NamedFile api_keys;  // who may ask (coordinator/gateway/api_keys.h); no path: everybody who can connect
  bool insecure_anonymous = false;           // allows a host off loopback without keys
  std::vector<std::string> allowed_origins;  // of pages that may call from a browser; "*": all
  int queue_requests = 256;
  Duration queue_wait = std::chrono::seconds(10);
  uint64_t body_bytes = 8ull << 20;
  int connections = 4096;
  int connections_per_address = 1024;  // not counted for loopback
  int64_t tokens_per_minute = 0;       // computed for one tenant; 0: any number
  int requests_per_tenant = 0;         // at once; 0: any number
  Duration request_time = std::chrono::seconds(600);
};

// Relative file names are taken from `folder`.
GatewayManifest read_gateway(ConfigObject gateway, const std::string& folder);
// As the manifest has it, with the defaults.
std::string gateway_yaml(const GatewayManifest& gateway);

// ["a", "b"]
std::string list_yaml(const std::vector<std::string>& texts);
std::string microseconds_text(Duration d);

}  // namespace baton::cli
