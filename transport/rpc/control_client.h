#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "base/status.h"
#include "transport/messages/messages.h"
#include "transport/rpc/security.h"
#include "transport/rpc/write_queue.h"

namespace baton::transport {

// ---- what the owner of a ControlClient hears. Per worker: opened, said..., closed, and again after a
// reconnect.

struct WorkerStreamOpened {
  WorkerHello hello;  // the worker is hello.worker.ref, as asked for
};
struct WorkerSaid {  // anything but a hello
  WorkerRef worker;
  WorkerMessage message;
};
// Also for an attempt that failed; another one follows until disconnect().
struct WorkerStreamClosed {
  WorkerRef worker;
  absl::Status why;
  bool was_open = false;
};
using ControlClientEvent = std::variant<WorkerStreamOpened, WorkerSaid, WorkerStreamClosed>;

struct ControlClientOptions {
  std::string coordinator_id;
  uint64_t term = 0;
  HashKey hash_key;
  RpcSecurity security;
  QueueBounds queue;  // of each stream, outgoing
};

// The coordinator's end of the control plane: keeps one stream open to every worker it was told of.
//
// A stream that breaks is opened again after 50 ms, doubling up to 1 s, as long as connect() stands
// (membership says alive). What was queued on the broken one is lost: its owner hears WorkerStreamClosed and
// starts again from a clean state. A Ping goes out when nothing else was sent, or nothing was heard,
// for timers::kHeartbeat: a worker in a long step does not answer submits, but it answers pings.
// Back-pressure: a queue that overflows closes the stream, and so does a sink that refuses a message.
//
// Thread: connect(), disconnect(), send(), tick() on the owner's thread; the sink is called on gRPC threads
// (and from tick()), in order for each worker, must only post and not call back. The destructor cancels all
// streams and waits for gRPC to let go of them; no event comes after it.
class ControlClient {
 public:
  // False when the mailbox is full.
  using Sink = std::function<bool(ControlClientEvent)>;

  ControlClient(ControlClientOptions options, Sink sink);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  // The first attempt is made by the next tick(). Errors: kInvalidArgument (an address off loopback without
  // TLS), kAlreadyExists (this life of the worker is connected).
  absl::Status connect(const WorkerRef& worker, const std::string& control_address);
  // No event about it follows.
  void disconnect(const WorkerRef& worker);

  // Never blocks. False when there is no open stream, or it is closed by this very overflow.
  bool send(const WorkerRef& worker, const CoordinatorMessage& message);
  // Makes due attempts, gives up those that take longer than timers::kDispatchAck, pings. Returns when to
  // call again; sooner after connect() and after an event. Four times a second while open streams are quiet.
  Instant tick(Instant now);

 private:
  class Core;
  class Stream;
  std::shared_ptr<Core> core_;
};

}  // namespace baton::transport
