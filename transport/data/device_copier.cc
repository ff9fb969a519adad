#include "transport/data/device_copier.h"

#include <algorithm>
#include <thread>

#include "base/check.h"

namespace baton::transport {

absl::Status await_copies(kernels::DeviceStream& stream, const Clock& clock, Duration look) {
  ASSIGN_OR_RETURN(const uint64_t mark, stream.mark());
  for (const Instant deadline = clock.now() + kCopyPatience;;) {
    ASSIGN_OR_RETURN(const bool passed, stream.passed(mark));
    if (passed) return absl::OkStatus();
    BATON_CHECK(clock.now() < deadline, "a copy of KV on the GPU does not end");
    if (look > Duration::zero()) {
      std::this_thread::sleep_for(look);
    } else {
      std::this_thread::yield();
    }
  }
}

absl::StatusOr<DeviceCopier> DeviceCopier::make(kernels::Device& device, const Clock& clock) {
  ASSIGN_OR_RETURN(std::unique_ptr<kernels::DeviceStream> stream, device.make_stream());
  return DeviceCopier(std::move(stream), clock);
}

absl::Status DeviceCopier::enqueue(std::byte* to, std::span<const PoolRun> places, const std::byte* from,
                                   std::span<const PoolRun> runs) {
  size_t place = 0;
  uint64_t filled = 0;  // of places[place]
  for (const PoolRun& run : runs) {
    for (uint64_t done = 0; done < run.bytes;) {
      BATON_CHECK(place < places.size(), "places are as long as runs");
      const uint64_t bytes = std::min(run.bytes - done, places[place].bytes - filled);
      RETURN_IF_ERROR(stream_->copy(to + places[place].offset + filled, from + run.offset + done, bytes));
      done += bytes;
      filled += bytes;
      if (filled == places[place].bytes) ++place, filled = 0;
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceCopier::finish() { return await_copies(*stream_, *clock_, Duration::zero()); }

// What was enqueued is waited for even when the rest of it could not be.
absl::Status DeviceCopier::copy(std::byte* to, std::span<const PoolRun> places, const std::byte* from,
                                std::span<const PoolRun> runs) {
  const absl::Status enqueued = enqueue(to, places, from, runs);
  const absl::Status finished = finish();
  return enqueued.ok() ? finished : enqueued;
}

}  // namespace baton::transport
