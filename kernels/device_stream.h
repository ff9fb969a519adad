#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace baton::kernels {

// A queue of work on a GPU: what is enqueued runs in order, later than the call. Whoever waits for it polls
// passed() and has a deadline of its own; nothing here blocks. Thread: one at a time, with the device
// current. Errors: the device's, kept by it for good (kInternal).
class DeviceStream {
 public:
  virtual ~DeviceStream() = default;

  // For libraries that enqueue by themselves (a cudaStream_t).
  virtual void* handle() = 0;
  // `to` and `from`: memory of the device, of a peer that was mapped, or pinned memory of the host, all of
  // which must stay until a later mark has passed.
  virtual absl::Status copy(std::byte* to, const std::byte* from, size_t bytes) = 0;
  // A place in the queue, behind everything enqueued so far: 1, 2, 3 ...
  virtual absl::StatusOr<uint64_t> mark() = 0;
  // Everything before that mark is done.
  virtual absl::StatusOr<bool> passed(uint64_t mark) = 0;
};

}  // namespace baton::kernels
