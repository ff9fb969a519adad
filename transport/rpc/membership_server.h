#pragma once

#include <memory>
#include <string>

#include "transport/rpc/membership_calls.h"
#include "transport/rpc/security.h"

namespace baton::transport {

struct MembershipServerOptions {
  std::string listen = "127.0.0.1:0";  // port 0: the system chooses, see port()
  RpcSecurity security;
  int max_calls = 1024;  // waiting for their reply; more are told kResourceExhausted
};

// The coordinator's gRPC server, where workers join, renew their lease and leave. It only carries the calls:
// the owner decides and replies (coordinator/membership).
//
// Thread: the sink is called on gRPC threads, must only post and not call back; replies any. Owns the server;
// the destructor answers open calls with kUnavailable.
class MembershipServer {
 public:
  // False when the mailbox is full: the worker is told kResourceExhausted.
  using Sink = std::function<bool(MembershipCall)>;

  static absl::StatusOr<std::unique_ptr<MembershipServer>> start(const MembershipServerOptions& options,
                                                                 Sink sink);
  ~MembershipServer();
  MembershipServer(const MembershipServer&) = delete;
  MembershipServer& operator=(const MembershipServer&) = delete;

  int port() const;

 private:
  class Service;
  MembershipServer();
  std::unique_ptr<Service> service_;
};

}  // namespace baton::transport
