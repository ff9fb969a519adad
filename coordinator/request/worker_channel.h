#pragma once

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

}  // namespace baton::coordinator
