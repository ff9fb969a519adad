#pragma once

#include <string>

#include "transport/messages/messages.h"

namespace baton::coordinator {

// The way to the workers: gRPC streams in production (wired by cli/), a heap of events in the simulator.
// Messages to one life of a worker arrive in order or that life is reported lost; a message to a life that is
// over vanishes. Thread: control. Must not block and must not call back.
class WorkerChannel {
 public:
  virtual ~WorkerChannel() = default;
  virtual void send(const WorkerRef& worker, CoordinatorMessage message) = 0;
};

// A channel whose streams are opened and closed as membership decides. What happens to them comes back as
// StreamOpened and StreamClosed commands. Thread: control.
class WorkerStreams : public WorkerChannel {
 public:
  virtual void connect(const WorkerRef& worker, const std::string& control_address) = 0;
  virtual void disconnect(const WorkerRef& worker) = 0;
  // Reconnects and heartbeats; returns when to call again.
  virtual Instant tick(Instant now) = 0;
};

}  // namespace baton::coordinator
