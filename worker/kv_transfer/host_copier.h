#pragma once

#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mailbox.h"
#include "kernels/device.h"
#include "transport/data/pinned_slabs.h"
#include "worker/kv_cache/host_copies.h"

namespace baton::worker {

struct HostCopierOptions {
  kernels::KvGeometry geometry;
  std::span<std::byte> pool;          // of the backend; with a device, addresses on it
  int64_t slots = 0;                  // each as large as a block over all layers
  kernels::Device* device = nullptr;  // that the pool lies on; null: host memory
};

// Host memory for KV blocks, and the thread that copies between it and the pool, beside the steps: on a GPU
// by a stream of its own from and to pinned memory, on the CPU (a GPU's stand-in for tests) by itself. Slot s
// holds the pieces of its block layer after layer. Memory is taken, and pinned, as slots are first used.
//
// A copy that the device refuses ends with an error, and so does every later one. A device that does not end
// one at all ends the process (transport::await_copies).
//
// Thread: copy() on the engine's, run() on its own, from which the sink is called. Owns memory and stream;
// borrows pool, device and clock. Errors: make(): no memory, no stream.
class HostCopier final : public HostCopies {
 public:
  static absl::StatusOr<std::unique_ptr<HostCopier>> make(const HostCopierOptions& options,
                                                          const Clock& clock, HostCopiedSink sink);
  ~HostCopier() override;
  HostCopier(const HostCopier&) = delete;
  HostCopier& operator=(const HostCopier&) = delete;

  void copy(HostCopy copy) override;
  // Until close(); what has not begun then is dropped.
  void run(const std::stop_token& stop);
  void close() { orders_.close(); }

  int64_t slots() const { return options_.slots; }
  size_t block_bytes() const { return slot_bytes(options_.geometry); }

  static size_t slot_bytes(const kernels::KvGeometry& geometry) {
    return geometry.piece_bytes() * geometry.layers;
  }

 private:
  HostCopier(const HostCopierOptions& options, std::span<std::byte> memory,
             std::unique_ptr<kernels::DeviceStream> stream, const Clock& clock, HostCopiedSink sink);
  absl::Status move(const HostCopy& order);
  absl::Status enqueue(const HostCopy& order);

  const HostCopierOptions options_;
  const std::span<std::byte> memory_;
  const std::unique_ptr<kernels::DeviceStream> stream_;
  std::optional<transport::PinnedSlabs> pinned_;  // with a device
  const Clock& clock_;
  const HostCopiedSink sink_;
  absl::Status broken_;
  Mailbox<HostCopy> orders_;
};

}  // namespace baton::worker
