#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "transport/rpc/security.h"

// Where our options become gRPC's. Only .cc files of this folder include it.
namespace baton::transport {

absl::Status to_absl(const grpc::Status& status);
grpc::Status to_grpc(const absl::Status& status);

// kConnection: given up with its connection; the certificates are those of when it was made. kProcess:
// connects anew by itself, with the certificates of then (a thread of gRPC's watches the files).
enum class ChannelLife : uint8_t { kConnection, kProcess };

// A connection of its own (no sharing, no hidden back-off) to `address`; nothing is connected yet.
absl::StatusOr<std::shared_ptr<grpc::Channel>> make_channel(const std::string& address,
                                                            const RpcSecurity& security, ChannelLife life);

struct ListeningServer {
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};
// Errors: kInvalidArgument (address off loopback without TLS, bad PEM), kUnavailable (port in use).
absl::StatusOr<ListeningServer> listen(const std::string& address, const RpcSecurity& security,
                                       grpc::Service& service);

// The certificate of the other end carries security.peer_name. True when none is asked for.
bool peer_allowed(const grpc::AuthContext* peer, const RpcSecurity& security);

}  // namespace baton::transport
