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

struct StreamTag {
  static constexpr const char* kPrefix = "stream";
};
// One stream of one coordinator; later streams have larger numbers.
using StreamId = Id<StreamTag, uint64_t>;

// ---- what the owner of a ControlServer hears. Per stream: opened, said..., closed.

// The hello was accepted and answered. An older stream of the same coordinator is over from here on, closed
// or not.
struct CoordinatorOpened {
  StreamId stream;
  CoordinatorHello hello;
};
struct CoordinatorSaid {  // anything but a hello
  StreamId stream;
  CoordinatorMessage message;
};
struct CoordinatorClosed {
  StreamId stream;
  absl::Status why;
};
using ControlServerEvent = std::variant<CoordinatorOpened, CoordinatorSaid, CoordinatorClosed>;

struct ControlServerOptions {
  std::string listen = "127.0.0.1:0";  // port 0: the system chooses, see port()
  std::string advertise;               // host that the coordinator connects to; empty: that of `listen`
  RpcSecurity security;
  QueueBounds queue;     // of each stream, outgoing
  int max_streams = 64;  // open or shaking hands
};

// The worker's end of the control plane: a gRPC server that accepts one stream from each coordinator.
//
// A stream begins with a CoordinatorHello; refused with a status when the version or the incarnation is not
// ours (kFailedPrecondition), the term is lower than one seen from this coordinator (kFailedPrecondition
// "fenced"), or `admit` says no. The same coordinator again, with the same or a higher term, replaces its
// older stream. What a coordinator sends after that is bound to its stream, so a replaced one cannot act any
// more. Back-pressure: a stream whose queue overflows, or whose messages the sink refuses, is closed.
//
// Thread: send(), close(), tick() any; the sink is called on gRPC threads, in order for each stream, must
// only post and not call back. Owns the server and its streams; the destructor cancels them.
class ControlServer {
 public:
  // False when the mailbox is full: the stream is closed.
  using Sink = std::function<bool(ControlServerEvent)>;
  // May refuse a hello that is good otherwise. Called like the sink.
  using Admit = std::function<absl::Status(const CoordinatorHello&)>;

  // `worker.control_address` is filled in (`advertise` and the chosen port) when it is empty.
  static absl::StatusOr<std::unique_ptr<ControlServer>> start(ControlServerOptions options,
                                                              WorkerDescription worker, Sink sink,
                                                              Admit admit = {});
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  int port() const;
  const WorkerDescription& worker() const;

  // Never blocks. False when the stream is gone, or is closed by this very overflow.
  bool send(StreamId stream, const WorkerMessage& message);
  // `why` reaches the coordinator unless a write is stuck. CoordinatorClosed follows.
  void close(StreamId stream, const absl::Status& why);
  // Closes streams that shake hands for longer than timers::kDead, cancels closed ones that are stuck. Call
  // at least each heartbeat.
  void tick(Instant now);

 private:
  class Core;
  class Stream;
  class Service;
  ControlServer();
  std::shared_ptr<Core> core_;
  std::unique_ptr<Service> service_;
};

}  // namespace baton::transport
