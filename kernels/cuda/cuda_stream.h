#pragma once

#include <cuda_runtime_api.h>

#include <deque>
#include <memory>
#include <vector>

#include "kernels/device_stream.h"

namespace baton::kernels::cuda {

// A CUDA stream with marks that are events: its own, or one that it borrows (the engine's, for what ranks say
// to each other in a step). Makes its device current in every call, so that any thread may own one. Thread:
// one at a time.
class CudaStream final : public DeviceStream {
 public:
  static absl::StatusOr<std::unique_ptr<CudaStream>> make(int device);
  CudaStream(int device, cudaStream_t borrowed) : device_(device), stream_(borrowed) {}
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  void* handle() override { return stream_; }
  absl::Status copy(std::byte* to, const std::byte* from, size_t bytes) override;
  absl::StatusOr<uint64_t> mark() override;
  absl::StatusOr<bool> passed(uint64_t mark) override;

 private:
  const int device_;
  cudaStream_t stream_;
  bool owned_ = false;
  uint64_t passed_ = 0;              // marks up to here
  std::deque<cudaEvent_t> waiting_;  // of the marks after that
  std::vector<cudaEvent_t> spare_;
};

}  // namespace baton::kernels::cuda
