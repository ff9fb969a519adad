#include "transport/data/staged_lane.h"

#include <algorithm>

namespace baton::transport {

StagedLane::StagedLane(kernels::Device& device, DeviceCopier& copier, std::span<std::byte> host)
    : device_(device),
      copier_(copier),
      host_(host),
      pinned_((host.size() + kSlabBytes - 1) / kSlabBytes, false) {}

StagedLane::~StagedLane() {
  for (size_t i = 0; i < pinned_.size(); ++i)
    if (pinned_[i]) device_.unpin(slab(i));
}

std::span<std::byte> StagedLane::slab(size_t index) const {
  const size_t begin = index * kSlabBytes;
  return host_.subspan(begin, std::min(kSlabBytes, host_.size() - begin));
}

absl::Status StagedLane::pin(std::span<const PoolRun> runs) {
  for (const PoolRun& run : runs)
    for (size_t i = run.offset / kSlabBytes; i <= (run.offset + run.bytes - 1) / kSlabBytes; ++i) {
      if (pinned_.at(i)) continue;
      RETURN_IF_ERROR(device_.pin(slab(i)));
      pinned_[i] = true;
    }
  return absl::OkStatus();
}

absl::Status StagedLane::bring_out(std::span<const PoolRun> runs) {
  RETURN_IF_ERROR(pin(runs));
  return copier_.copy(host_.data(), runs, device_.kv_pool().data(), runs);
}

absl::Status StagedLane::bring_in(std::span<const PoolRun> runs) {
  RETURN_IF_ERROR(pin(runs));
  return copier_.copy(device_.kv_pool().data(), runs, host_.data(), runs);
}

}  // namespace baton::transport
