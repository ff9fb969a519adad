#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "kernels/device.h"
#include "transport/data/data_plane.h"

namespace baton::transport {

// Returns when all copies enqueued on the stream so far are done; looks again after `look` (0: at once). A
// GPU that does not end a copy in kCopyPatience is a broken one: the process ends, because the blocks cannot
// be given back on a guess (design I2). Thread: the stream's.
inline constexpr Duration kCopyPatience = std::chrono::seconds(10);
absl::Status await_copies(kernels::DeviceStream& stream, const Clock& clock, Duration look);

// Copies of KV from and to a GPU's memory, on a stream beside the steps. finish() returns when they are done,
// as a copy by the processor would be: whoever asked for them may take blocks back as soon as it has the word
// again. Thread: progress. Owns the stream.
class DeviceCopier {
 public:
  static absl::StatusOr<DeviceCopier> make(kernels::Device& device, const Clock& clock);

  // Bytes of `from` runs, one after the other, to `to` runs of the same length in all.
  absl::Status enqueue(std::byte* to, std::span<const PoolRun> places, const std::byte* from,
                       std::span<const PoolRun> runs);
  absl::Status finish();
  // Both.
  absl::Status copy(std::byte* to, std::span<const PoolRun> places, const std::byte* from,
                    std::span<const PoolRun> runs);

 private:
  DeviceCopier(std::unique_ptr<kernels::DeviceStream> stream, const Clock& clock)
      : stream_(std::move(stream)), clock_(&clock) {}
  std::unique_ptr<kernels::DeviceStream> stream_;
  const Clock* clock_;
};

}  // namespace baton::transport
