#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "kernels/backend.h"
#include "kernels/device_stream.h"

namespace baton::kernels {

// How another process of this machine finds a device's KV pool. Nothing of it is believed:
// Device::open_pool().
struct PoolHandle {
  std::array<std::byte, 64> words{};  // the driver's
  uint64_t pool_bytes = 0;
  std::array<uint64_t, 2> nonce{};  // stands behind the pool
};

// Of a GPU: what nobody has taken, now, and all of it.
struct DeviceMemory {
  uint64_t free = 0;
  uint64_t total = 0;
};

// A GPU, as those see it who move bytes from and to its memory but compute nothing: what the ranks of a group
// say to each other, and KV on its way between workers. Made and owned by the backend that computes on it.
// Thread: as each call says. Errors: the device's.
class Device {
 public:
  virtual ~Device() = default;

  // Unlike that of any other GPU.
  virtual std::string id() const = 0;
  // Thread: any.
  virtual absl::StatusOr<DeviceMemory> memory() = 0;
  // What the operations of a step are enqueued on. Thread: the engine's.
  virtual DeviceStream& step_stream() = 0;
  // Another one, beside the steps. Thread: any.
  virtual absl::StatusOr<std::unique_ptr<DeviceStream>> make_stream() = 0;

  // Waits until k and v of `layer` of the running step lie in the pool. False: this step does not tell (a
  // replayed graph, an error), the end of the step does. Thread: the engine's.
  virtual bool await_stored(int layer) = 0;
  // Since Backend::attach_kv(): addresses on the device, to be given to streams and never read. Thread: any.
  virtual std::span<std::byte> kv_pool() = 0;

  // Host memory that streams copy at the device's full speed from now on; whole pages. Thread: any.
  virtual absl::Status pin(std::span<std::byte> host) = 0;
  virtual void unpin(std::span<std::byte> host) = 0;

  // The pool as others find it, and theirs as seen from here: an address on this device's side, of a mapping
  // that is as large as the handle says, with its nonce where it should be. Whoever opens closes, before the
  // other process may use that memory for something else. Thread: any.
  virtual absl::StatusOr<PoolHandle> export_pool() = 0;
  virtual absl::StatusOr<const std::byte*> open_pool(const PoolHandle& handle) = 0;
  virtual void close_pool(const std::byte* pool) = 0;
};

// A backend whose memory is a GPU's (in_host_memory() is false).
class DeviceBackend : public Backend {
 public:
  virtual Device& device() = 0;
  // Whether a step may begin while the one before it, which was launched, is not finished (two at most), and
  // draws tokens for it.
  virtual bool feeds_back() const = 0;
  // Of the step that begins next: by row the logit row of the step before whose drawn token is the row's; -1:
  // it stands in StepBatch::tokens. Nothing: of no row.
  virtual void feed(std::span<const int32_t> logit_rows) = 0;
  // Everything of the step has been called for: it runs, and what it was given but weights may go. Optional:
  // finish_step() does it when nobody did, and waits for the oldest step that is not finished.
  virtual void launch_step() = 0;
  // Whether ranks may each take some inputs of a product and add their sums in any order, because bits are no
  // promise. Else each rank computes some outputs (docs/adr/0015).
  virtual bool splits_inputs() const = 0;
  // Of the device's memory, beside weights, KV and activations: partial results, graphs, the runtime; about
  // right.
  virtual size_t own_bytes() const = 0;
  // What to set to get plainer kernels, should those in use be wrong on this device; empty: nothing helps.
  virtual std::string advice() const { return {}; }
};
// Null for a backend of the host's memory.
inline DeviceBackend* device_backend(Backend* backend) { return dynamic_cast<DeviceBackend*>(backend); }

}  // namespace baton::kernels
