#include "transport/data/pinned_slabs.h"

#include <algorithm>

namespace baton::transport {

PinnedSlabs::PinnedSlabs(kernels::Device& device, std::span<std::byte> host)
    : device_(device), host_(host), pinned_((host.size() + kSlabBytes - 1) / kSlabBytes, false) {}

PinnedSlabs::~PinnedSlabs() {
  for (size_t i = 0; i < pinned_.size(); ++i)
    if (pinned_[i]) device_.unpin(slab(i));
}

std::span<std::byte> PinnedSlabs::slab(size_t index) const {
  const size_t begin = index * kSlabBytes;
  return host_.subspan(begin, std::min(kSlabBytes, host_.size() - begin));
}

absl::Status PinnedSlabs::pin(size_t offset, size_t bytes) {
  for (size_t i = offset / kSlabBytes; bytes > 0 && i <= (offset + bytes - 1) / kSlabBytes; ++i) {
    if (pinned_.at(i)) continue;
    RETURN_IF_ERROR(device_.pin(slab(i)));
    pinned_[i] = true;
  }
  return absl::OkStatus();
}

}  // namespace baton::transport
