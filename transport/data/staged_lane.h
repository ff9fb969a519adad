#pragma once

#include <span>

#include "transport/data/device_copier.h"
#include "transport/data/pinned_slabs.h"

namespace baton::transport {

// Lane `staged`: KV of a GPU on its way through host memory, where nothing better reaches the other GPU. Each
// block of the device's pool has its place at the same offset of a pool in host memory, which another lane
// moves bytes from and to: whoever owns the block owns that place, so that no further account of it is
// needed. Host memory is taken, and pinned, slab by slab when first used; at most as much as the device's
// pool has. Thread: progress. Borrows device and memory. Errors: the device's; memory that cannot be pinned
// (kInternal).
class StagedLane {
 public:
  StagedLane(kernels::Device& device, DeviceCopier& copier, std::span<std::byte> host)
      : device_(device), copier_(copier), host_(host), pinned_(device, host) {}

  // Before these runs are offered: from the device to the host. After they landed: the other way.
  absl::Status bring_out(std::span<const PoolRun> runs);
  absl::Status bring_in(std::span<const PoolRun> runs);

 private:
  absl::Status pin(std::span<const PoolRun> runs);

  kernels::Device& device_;
  DeviceCopier& copier_;
  const std::span<std::byte> host_;
  PinnedSlabs pinned_;
};

}  // namespace baton::transport
