#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "kernels/device.h"
#include "transport/data/data_plane.h"

namespace baton::transport {

// Copies of KV from and to a GPU's memory, on a stream beside the steps. finish() returns when they are done,
// as a copy by the processor would be: whoever asked for them may take blocks back as soon as it has the word
// again (design I2), and a GPU that does not end a copy in kPatience is a broken one: the process ends,
// because its blocks cannot be given back. Thread: progress. Owns the stream.
class DeviceCopier {
 public:
  static constexpr Duration kPatience = std::chrono::seconds(10);

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
