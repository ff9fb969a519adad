#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>

#include "base/status.h"
#include "transport/messages/messages.h"

// What a worker asks of the coordinator's membership, and the answers, as plain values.
//
// Status codes that both ends act on: kFailedPrecondition = this life of the worker is fenced, only a new
// incarnation may join (transport/messages/life_over.h says from which number on); kNotFound = unknown lease
// (the coordinator restarted), join again; anything else: try again later.
namespace baton::transport {

struct JoinAccepted {
  uint64_t lease = 0;
  Duration ttl{};
  std::string coordinator_id;
  uint64_t term = 0;
  HashKey hash_key;
  friend bool operator==(const JoinAccepted&, const JoinAccepted&) = default;
};

// reply: any thread, once; a second call does nothing. When all copies are gone unused, the worker is told
// kUnavailable.
struct JoinCall {
  WorkerDescription worker;
  std::function<void(absl::StatusOr<JoinAccepted>)> reply;
};
struct RenewCall {
  WorkerRef worker;
  uint64_t lease = 0;
  std::function<void(absl::Status)> reply;
};
struct LeaveCall {
  WorkerRef worker;
  uint64_t lease = 0;
  std::function<void(absl::Status)> reply;
};
using MembershipCall = std::variant<JoinCall, RenewCall, LeaveCall>;

}  // namespace baton::transport
