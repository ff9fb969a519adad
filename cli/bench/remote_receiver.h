#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cli/bench/measured_pair.h"

// The receiving half of `bench transfer` on another machine. There, serve_receivers() starts receiving
// processes for whoever connects; here, RemoteReceivers asks it to. They speak lines of text over TCP, one
// answer to each:
//
//   baton-transfer 0.1.0        ok                             the same version on both sides
//   start socket 536870912 1    ok 0 socket:10.0.0.2:39129     kind, bytes of the pool, checksums
//   cpu 0                       ok 0.532                       seconds of that process
//   end 0                       ok
//
// or `error` and why. Plain and open to all who reach the address: for the time of a measurement.
namespace baton::cli {

// What a receiving process is to do.
struct ReceiverOrder {
  std::string kind;  // rawsocket, or a lane
  uint64_t pool_bytes = 0;
  bool checksum = true;
};

// A connection to the other machine. Thread: one. Errors: kUnavailable, with what the other side said; each
// answer within a deadline (design I4).
class RemoteReceivers {
 public:
  // `address`: numeric, with its port.
  static absl::StatusOr<std::unique_ptr<RemoteReceivers>> connect(const std::string& address);
  ~RemoteReceivers();
  RemoteReceivers(const RemoteReceivers&) = delete;
  RemoteReceivers& operator=(const RemoteReceivers&) = delete;

  // Must not outlive this object.
  absl::StatusOr<std::unique_ptr<MoveReceiver>> start(const ReceiverOrder& order);
  // Of this machine, towards the other one.
  const std::string& own_host() const { return own_host_; }
  const std::string& host() const { return host_; }
  // The answer to a line, without "ok".
  absl::StatusOr<std::string> ask(const std::string& line);

 private:
  RemoteReceivers() = default;
  int descriptor_ = -1;
  std::string host_, own_host_;
};

struct ServeReceiversOptions {
  std::string address;              // to listen on: numeric, with its port; port 0: one that is free
  bool insecure_plaintext = false;  // off loopback, too
  uint64_t most_pool_bytes = 0;     // that an order may ask for
  std::function<void(const std::string& address)> listening{};
};
// One caller after the other, until the process is ended. Prints to stderr who comes. Errors: an address that
// cannot be listened on.
absl::Status serve_receivers(const ServeReceiversOptions& options);

}  // namespace baton::cli
