#include "kernels/cuda/cuda_stream.h"

#include "kernels/cuda/device_memory.h"

namespace baton::kernels::cuda {

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::make(int device) {
  RETURN_IF_ERROR(to_status(cudaSetDevice(device), "choosing the device"));
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(to_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"));
  auto made = std::make_unique<CudaStream>(device, stream);
  made->owned_ = true;
  return made;
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  if (owned_) cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : waiting_) cudaEventDestroy(event);
  for (cudaEvent_t event : spare_) cudaEventDestroy(event);
  if (owned_) cudaStreamDestroy(stream_);
}

absl::Status CudaStream::copy(std::byte* to, const std::byte* from, size_t bytes) {
  RETURN_IF_ERROR(to_status(cudaSetDevice(device_), "choosing the device"));
  return to_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copying");
}

absl::StatusOr<uint64_t> CudaStream::mark() {
  RETURN_IF_ERROR(to_status(cudaSetDevice(device_), "choosing the device"));
  cudaEvent_t event = nullptr;
  if (spare_.empty()) {
    RETURN_IF_ERROR(to_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event"));
  } else {
    event = spare_.back();
    spare_.pop_back();
  }
  waiting_.push_back(event);
  RETURN_IF_ERROR(to_status(cudaEventRecord(event, stream_), "recording an event"));
  return passed_ + waiting_.size();
}

absl::StatusOr<bool> CudaStream::passed(uint64_t mark) {
  RETURN_IF_ERROR(to_status(cudaSetDevice(device_), "choosing the device"));
  while (passed_ < mark && !waiting_.empty()) {
    const cudaError_t state = cudaEventQuery(waiting_.front());
    if (state == cudaErrorNotReady) {
      (void)cudaGetLastError();  // kept for the next launch otherwise
      return false;
    }
    RETURN_IF_ERROR(to_status(state, "work on a stream"));
    spare_.push_back(waiting_.front());
    waiting_.pop_front();
    ++passed_;
  }
  return passed_ >= mark;
}

}  // namespace baton::kernels::cuda
