#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "transport/rpc/membership_calls.h"
#include "transport/rpc/security.h"

namespace baton::transport {

// ---- what the owner of a MembershipClient hears

struct Joined {
  JoinAccepted accepted;
};
// Told when the reason changes; unless `fenced`, the client keeps trying.
struct JoinFailed {
  absl::Status why;
};
// The coordinator restarted, or could not be reached for as long as the lease lasts; the client joins again.
// The streams of coordinators are not concerned: serving needs no lease.
struct LeaseLost {
  absl::Status why;
};
// This life is over for the coordinator: only a new incarnation may join. Nothing follows.
struct Fenced {
  absl::Status why;
};
using MembershipEvent = std::variant<Joined, JoinFailed, LeaseLost, Fenced>;

// A worker's membership with one coordinator: joins, renews each timers::kLeaseRenew, joins again when the
// lease is lost, leaves. Every call has a deadline of timers::kLeaseRenew; a coordinator that is not there
// yet is tried again every 0.1 to 1 s.
//
// Thread: tick(), leave() on the owner's thread; the sink is called on gRPC threads and from tick(), must
// only post and not call back. The destructor waits for calls under way (at most their deadline).
class MembershipClient {
 public:
  using Sink = std::function<void(MembershipEvent)>;

  // Errors: kInvalidArgument (an address off loopback without TLS, bad PEM).
  static absl::StatusOr<std::unique_ptr<MembershipClient>> create(const std::string& coordinator_address,
                                                                  const RpcSecurity& security,
                                                                  WorkerDescription worker, Sink sink);
  ~MembershipClient();
  MembershipClient(const MembershipClient&) = delete;
  MembershipClient& operator=(const MembershipClient&) = delete;

  // Makes the calls that are due; returns when to call again.
  Instant tick(Instant now);
  // Tells the coordinator that this life ends. Nothing more is sent after it.
  void leave();
  bool joined() const;

 private:
  class Core;
  MembershipClient();
  std::shared_ptr<Core> core_;
};

}  // namespace baton::transport
