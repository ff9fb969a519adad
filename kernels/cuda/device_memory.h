#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "base/cat.h"
#include "base/status.h"
#include "kernels/cuda/device_name.h"

namespace baton::kernels::cuda {

// OK, or what CUDA says of `what`. Device memory that is used up is kResourceExhausted; no driver (35) and no
// device (100) are kUnavailable and say that device cpu works.
absl::Status to_status(cudaError_t error, std::string_view what);

// Copies and waits: whatever is enqueued afterwards, on any stream, sees the bytes. (cudaMemcpy alone may
// return while the bytes are on their way, and streams of our own do not wait for the one it uses.)
absl::Status copy_to_device(void* to, const void* from, size_t bytes, std::string_view what);

struct DeviceProperties {
  int index = 0;
  std::string name;
  std::string uuid;    // 32 hexadecimal digits
  int processors = 0;  // SMs; of a MIG slice: its own
  int capability = 0;  // 90 = Hopper
  size_t memory_total = 0;
  size_t memory_free = 0;  // before anything was taken
};
// Makes the device this thread's current one. Errors: to_status's, kInvalidArgument for a device that is not
// there or older than sm_80.
absl::StatusOr<DeviceProperties> open_device(const DeviceName& name);

// One allocation: memory of the device, or of the host where the device reads and writes it at full speed
// (pinned). Movable, freed with the object. Thread: any, with the device current.
class DeviceBuffer {
 public:
  enum class Kind { kDevice, kPinned };
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(kind_, other.kind_);
    return *this;
  }
  ~DeviceBuffer();
  // Content: zeros. `what` names it when there is no room.
  static absl::StatusOr<DeviceBuffer> make(Kind kind, size_t bytes, std::string_view what);

  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  Kind kind_ = Kind::kDevice;
};

}  // namespace baton::kernels::cuda
