#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/status.h"

namespace baton::transport {

// PEM files of one process: the cluster's own CA, and this process's certificate and key.
struct TlsFiles {
  std::string ca;
  std::string certificate;
  std::string key;
};

// How a gRPC end protects itself (design I9). Without TLS only loopback addresses are listened on or
// connected to, unless the flag with the ugly name says that the network is trusted.
struct RpcSecurity {
  std::optional<TlsFiles> tls;  // mutual: both ends show a certificate of the same CA
  // With TLS: a name that the other end's certificate must carry (subject alternative name or common name),
  // so that a worker cannot pose as coordinator. Empty: any certificate of the CA (as client: the name in the
  // address).
  std::string peer_name;
  bool insecure_i_understand = false;
  // How often the files are looked at: connections made after that show a renewed certificate.
  std::chrono::seconds reload{30};
};

// "127.0.0.1:80", "[::1]:80", "localhost:80".
bool is_loopback(const std::string& address);

// kInvalidArgument when `address` is off loopback and nothing protects it.
absl::Status check_address(const std::string& address, const RpcSecurity& security);

}  // namespace baton::transport
