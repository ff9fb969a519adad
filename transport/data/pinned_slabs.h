#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/device.h"

namespace baton::transport {

// Host memory that a device copies from and to at its full speed: pinned slab by slab when first used, so
// that it costs nothing before. Thread: one. Borrows device and memory, unpins at its end. Errors: the
// device's.
class PinnedSlabs {
 public:
  static constexpr size_t kSlabBytes = size_t{16} << 20;

  PinnedSlabs(kernels::Device& device, std::span<std::byte> host);
  ~PinnedSlabs();
  PinnedSlabs(const PinnedSlabs&) = delete;
  PinnedSlabs& operator=(const PinnedSlabs&) = delete;

  absl::Status pin(size_t offset, size_t bytes);

 private:
  std::span<std::byte> slab(size_t index) const;

  kernels::Device& device_;
  const std::span<std::byte> host_;
  std::vector<bool> pinned_;  // by slab
};

}  // namespace baton::transport
