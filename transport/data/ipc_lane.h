#pragma once

#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels/device.h"
#include "transport/data/data_plane.h"

namespace baton::transport {

// Lane `ipc`: the receiver maps the pool that the sender's process has on a GPU of the same machine, and
// copies from it by its own GPU. As on lane `local` the sender only offers runs; nobody outside the receiver
// writes its pool.

// A peer's pool, mapped while this lives. Nothing of the handle is believed: its size is asked of the driver,
// and what lies there must be what the peer says of it. Thread: progress. Borrows the device.
class IpcPool {
 public:
  static absl::StatusOr<std::shared_ptr<IpcPool>> map(kernels::Device& device,
                                                      const kernels::PoolHandle& handle);
  ~IpcPool() { device_.close_pool(pool_); }
  IpcPool(const IpcPool&) = delete;
  IpcPool& operator=(const IpcPool&) = delete;

  const std::byte* data() const { return pool_; }
  uint64_t bytes() const { return bytes_; }

 private:
  IpcPool(kernels::Device& device, const std::byte* pool, uint64_t bytes)
      : device_(device), pool_(pool), bytes_(bytes) {}
  kernels::Device& device_;
  const std::byte* const pool_;
  const uint64_t bytes_;
};

// What the data planes of two GPUs say to each other, as messages of the plane between them; OwnerWord
// carries those of the planes' owners.
struct OwnerWord {
  std::string message;
};
// First word of both: whether the other may map this side's pool, and how.
struct CardWord {
  std::string host_id;
  std::string device_id;
  bool ipc = false;
  kernels::PoolHandle pool;
};
// Second word of both: the other's pool is mapped here, or why not. The lane is `ipc` when both have.
struct LaneWord {
  bool mapped = false;
  std::string detail;
};
struct OfferWord {
  uint64_t cookie = 0;
  std::string header;
  std::vector<PoolRun> runs;
  uint64_t bytes() const;
};
struct AnswerWord {
  uint64_t cookie = 0;
  uint8_t code = 0;  // absl::StatusCode
  std::string reason;
};
using DeviceWord = std::variant<OwnerWord, CardWord, LaneWord, OfferWord, AnswerWord>;

std::string encode_word(const DeviceWord& word);
absl::StatusOr<DeviceWord> decode_word(std::span<const std::byte> bytes);

}  // namespace baton::transport
