#include "transport/data/staged_lane.h"

namespace baton::transport {

absl::Status StagedLane::pin(std::span<const PoolRun> runs) {
  for (const PoolRun& run : runs) RETURN_IF_ERROR(pinned_.pin(run.offset, run.bytes));
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
