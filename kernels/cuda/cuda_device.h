#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/device.h"

namespace baton::kernels::cuda {

// The GPU of a CudaBackend for those who do not compute on it: streams of their own, the KV pool to copy from
// and to, and other processes' pools by CUDA IPC (same machine; between GPUs where they reach each other).
// Borrows the backend's stream and owns the pool. Thread: as Device.
class CudaDevice final : public Device {
 public:
  // `patience`: how long the kernels of one step may take.
  CudaDevice(const DeviceProperties& properties, cudaStream_t steps, Duration patience)
      : index_(properties.index),
        id_(properties.uuid),
        patience_(patience),
        steps_(properties.index, steps) {}

  // The pool, and behind it the nonce.
  absl::Status take_pool(size_t bytes);
  // Of the step enqueued last, one more than those under way (two at most): it begins; k and v of its next
  // layer are enqueued; all of it is. Thread: the engine's.
  void begin_step();
  absl::Status note_stored();
  absl::Status end_step();
  // Wait for the oldest step under way, or for all that has been enqueued. Errors: a kernel's;
  // kDeadlineExceeded when the step takes too long: a kernel that never ends cannot be stopped, and what
  // frees its memory waits for it.
  absl::Status await_step();
  absl::Status await_kernels();
  bool hangs() const { return hangs_; }

  std::string id() const override { return id_; }
  absl::StatusOr<DeviceMemory> memory() override;
  DeviceStream& step_stream() override { return steps_; }
  absl::StatusOr<std::unique_ptr<DeviceStream>> make_stream() override { return CudaStream::make(index_); }
  bool await_stored(int layer) override;
  std::span<std::byte> kv_pool() override { return {pool_.data(), pool_bytes_}; }
  absl::Status pin(std::span<std::byte> host) override;
  void unpin(std::span<std::byte> host) override;
  absl::StatusOr<PoolHandle> export_pool() override;
  absl::StatusOr<const std::byte*> open_pool(const PoolHandle& handle) override;
  void close_pool(const std::byte* pool) override;

 private:
  absl::Status make_current() const { return to_status(cudaSetDevice(index_), "choosing the device"); }
  absl::Status check_pool(const PoolHandle& handle, const std::byte* pool) const;

  const int index_;
  const std::string id_;
  const Duration patience_;
  CudaStream steps_;
  // Marks of a step: of its layers, and behind all of it.
  struct Step {
    std::vector<uint64_t> stored;
    uint64_t end = 0;
  };
  absl::Status hang();
  std::array<Step, 2> running_;  // a ring: from oldest_ on
  size_t oldest_ = 0, count_ = 0;
  Instant deadline_ = kNever;  // of the oldest
  bool hangs_ = false;
  DeviceBuffer pool_;
  size_t pool_bytes_ = 0;
  std::array<uint64_t, 2> nonce_{};
};

}  // namespace baton::kernels::cuda
