#include "kernels/cuda/device_memory.h"

#include <algorithm>
#include <cstdlib>

#include "base/units.h"

namespace baton::kernels::cuda {

absl::Status to_status(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // told here: a later launch must not find it again
  const std::string text =
      cat(what, ": ", cudaGetErrorString(error), " (CUDA error ", static_cast<int>(error), ")");
  if (error == cudaErrorInsufficientDriver)
    return absl::UnavailableError(
        cat("device cuda: there is no NVIDIA driver here, or one older than CUDA 13 needs "
            "(580); device cpu works without. ",
            text));
  if (error == cudaErrorNoDevice)
    return absl::UnavailableError(
        cat("device cuda: the NVIDIA driver has no device for this process "
            "(CUDA_VISIBLE_DEVICES?); device cpu works without. ",
            text));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(text);
  return absl::InternalError(text);
}

absl::Status copy_to_device(void* to, const void* from, size_t bytes, std::string_view what) {
  RETURN_IF_ERROR(to_status(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), what));
  return to_status(cudaStreamSynchronize(nullptr), what);
}

namespace {

std::string hexadecimal(const cudaUUID_t& uuid) {
  std::string text;
  for (const char byte : uuid.bytes) {
    text += "0123456789abcdef"[static_cast<unsigned char>(byte) >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace

absl::StatusOr<DeviceProperties> open_device(const DeviceName& name) {
  // The driver reads the variable when it starts, so this has to come before any other call.
  if (!name.uuid.empty()) ::setenv("CUDA_VISIBLE_DEVICES", name.uuid.c_str(), 1);
  int count = 0;
  RETURN_IF_ERROR(to_status(cudaGetDeviceCount(&count), "asking for devices"));
  if (name.index >= count)
    return absl::InvalidArgumentError(
        name.uuid.empty() ? cat("device cuda:", name.index, ": there are ", count, " devices (nvidia-smi -L)")
                          : cat("device cuda:", name.uuid, ": there is none with this UUID (nvidia-smi -L)"));
  RETURN_IF_ERROR(to_status(cudaSetDevice(name.index), "choosing the device"));
  cudaDeviceProp p;
  RETURN_IF_ERROR(to_status(cudaGetDeviceProperties(&p, name.index), "asking for properties"));
  DeviceProperties out = {.index = name.index,
                          .name = p.name,
                          .uuid = hexadecimal(p.uuid),
                          .processors = p.multiProcessorCount,
                          .capability = 10 * p.major + p.minor};
  if (out.capability != 80 && out.capability != 86 && out.capability != 87 && out.capability != 89 &&
      out.capability != 90)
    return absl::InvalidArgumentError(cat("device cuda:", name.index, " is a ", out.name,
                                          " with compute capability ", p.major, ".", p.minor,
                                          ": this build has code for 8.x and 9.0"));
  RETURN_IF_ERROR(to_status(cudaMemGetInfo(&out.memory_free, &out.memory_total), "asking for free memory"));
  return out;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  kind_ == Kind::kDevice ? cudaFree(data_) : cudaFreeHost(data_);
}

absl::StatusOr<DeviceBuffer> DeviceBuffer::make(Kind kind, size_t bytes, std::string_view what) {
  DeviceBuffer buffer;
  const size_t size = std::max<size_t>(bytes, 256);
  void* data = nullptr;
  const cudaError_t error = kind == Kind::kDevice ? cudaMalloc(&data, size) : cudaMallocHost(&data, size);
  RETURN_IF_ERROR(to_status(
      error, cat(format_bytes(size), kind == Kind::kDevice ? " of device memory" : " of pinned memory",
                 " for ", what)));
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.bytes_ = size;
  buffer.kind_ = kind;
  if (kind == Kind::kPinned) {
    std::fill_n(buffer.data_, size, std::byte{0});
    return buffer;
  }
  // Returns before the memory is clear, and on a stream that ours do not wait for.
  RETURN_IF_ERROR(to_status(cudaMemset(data, 0, size), "clearing memory"));
  RETURN_IF_ERROR(to_status(cudaStreamSynchronize(nullptr), "clearing memory"));
  return buffer;
}

}  // namespace baton::kernels::cuda
