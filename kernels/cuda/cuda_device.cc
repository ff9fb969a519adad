#include "kernels/cuda/cuda_device.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/cat.h"
#include "base/check.h"
#include "kernels/cuda/address_range.h"

namespace baton::kernels::cuda {
namespace {

static_assert(sizeof(PoolHandle::words) == sizeof(cudaIpcMemHandle_t));

}  // namespace

absl::Status CudaDevice::take_pool(size_t bytes) {
  RETURN_IF_ERROR(make_current());
  if (::getrandom(nonce_.data(), sizeof nonce_, 0) != sizeof nonce_)
    return absl::InternalError("no random bytes");
  ASSIGN_OR_RETURN(pool_,
                   DeviceBuffer::make(DeviceBuffer::Kind::kDevice, bytes + sizeof nonce_, "the KV pool"));
  pool_bytes_ = bytes;
  return copy_to_device(pool_.data() + bytes, nonce_.data(), sizeof nonce_, "marking the KV pool");
}

void CudaDevice::begin_step() {
  BATON_CHECK(count_ < running_.size(), "too many steps under way");
  Step& step = running_[(oldest_ + count_++) % running_.size()];
  step.stored.clear();
  step.end = 0;
  if (count_ == 1) deadline_ = SteadyClock().now() + patience_;
}

absl::Status CudaDevice::end_step() {
  ASSIGN_OR_RETURN(running_[(oldest_ + count_ - 1) % running_.size()].end, steps_.mark());
  return absl::OkStatus();
}

// Also the marks of layers that nobody waited for pass: their events serve again.
absl::Status CudaDevice::await_step() {
  const uint64_t end = running_[oldest_].end;
  const SteadyClock clock;
  absl::Status status = end == 0 ? await_kernels() : absl::OkStatus();
  while (end != 0) {
    const absl::StatusOr<bool> passed = steps_.passed(end);
    status = passed.status();
    if (!passed.ok() || *passed) break;
    if (clock.now() > deadline_) {
      status = hang();
      break;
    }
    std::this_thread::yield();
  }
  oldest_ = (oldest_ + 1) % running_.size();
  --count_;
  deadline_ = clock.now() + patience_;
  return status;
}

absl::Status CudaDevice::hang() {
  hangs_ = true;
  return absl::DeadlineExceededError(cat("the kernels have not ended for ", to_seconds(patience_),
                                         " s (BATON_CUDA_DEADLINE): the device hangs, or is far too slow"));
}

absl::Status CudaDevice::await_kernels() {
  const auto stream = static_cast<cudaStream_t>(steps_.handle());
  const SteadyClock clock;
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state != cudaErrorNotReady) return to_status(state, "waiting for the kernels");
    (void)cudaGetLastError();  // CUDA keeps "not ready" as this thread's last error, where the next launch
                               // would find it
    if (clock.now() > deadline_) return hang();
    std::this_thread::yield();
  }
}

absl::Status CudaDevice::note_stored() {
  ASSIGN_OR_RETURN(const uint64_t mark, steps_.mark());
  running_[(oldest_ + count_ - 1) % running_.size()].stored.push_back(mark);
  return absl::OkStatus();
}

// Kernels of this device only are waited for, as at the end of the step: links between ranks have settled
// before.
bool CudaDevice::await_stored(int layer) {
  const std::vector<uint64_t>& stored = running_[oldest_].stored;
  if (count_ == 0 || static_cast<size_t>(layer) >= stored.size()) return false;
  const SteadyClock clock;
  while (clock.now() <= deadline_) {
    const absl::StatusOr<bool> passed = steps_.passed(stored[layer]);
    if (!passed.ok()) return false;  // the end of the step finds the same error
    if (*passed) return true;
    std::this_thread::yield();
  }
  return false;  // which the end of the step finds too
}

absl::StatusOr<DeviceMemory> CudaDevice::memory() {
  RETURN_IF_ERROR(make_current());
  size_t free = 0, total = 0;
  RETURN_IF_ERROR(to_status(cudaMemGetInfo(&free, &total), "asking for free memory"));
  return DeviceMemory{.free = free, .total = total};
}

absl::Status CudaDevice::pin(std::span<std::byte> host) {
  RETURN_IF_ERROR(make_current());
  return to_status(cudaHostRegister(host.data(), host.size(), cudaHostRegisterDefault),
                   "pinning host memory for KV on its way");
}

void CudaDevice::unpin(std::span<std::byte> host) {
  if (make_current().ok()) (void)cudaHostUnregister(host.data());
}

absl::StatusOr<PoolHandle> CudaDevice::export_pool() {
  RETURN_IF_ERROR(make_current());
  cudaIpcMemHandle_t handle;
  RETURN_IF_ERROR(to_status(cudaIpcGetMemHandle(&handle, pool_.data()), "exporting the KV pool"));
  PoolHandle out{.pool_bytes = pool_bytes_, .nonce = nonce_};
  std::memcpy(out.words.data(), &handle, sizeof handle);
  return out;
}

absl::Status CudaDevice::check_pool(const PoolHandle& handle, const std::byte* pool) const {
  ASSIGN_OR_RETURN(const size_t bytes, bytes_behind(pool));
  if (handle.pool_bytes > bytes || bytes - handle.pool_bytes < sizeof handle.nonce)
    return absl::InvalidArgumentError(cat("it says ", handle.pool_bytes, " bytes, its mapping has ", bytes));
  std::array<uint64_t, 2> nonce{};
  RETURN_IF_ERROR(
      to_status(cudaMemcpy(nonce.data(), pool + handle.pool_bytes, sizeof nonce, cudaMemcpyDeviceToHost),
                "reading it"));
  return nonce == handle.nonce ? absl::OkStatus() : absl::InvalidArgumentError("another one lies there");
}

absl::StatusOr<const std::byte*> CudaDevice::open_pool(const PoolHandle& handle) {
  RETURN_IF_ERROR(make_current());
  cudaIpcMemHandle_t words;
  std::memcpy(&words, handle.words.data(), sizeof words);
  void* at = nullptr;
  RETURN_IF_ERROR(to_status(cudaIpcOpenMemHandle(&at, words, cudaIpcMemLazyEnablePeerAccess),
                            "mapping a peer's KV pool"));
  const auto* pool = static_cast<const std::byte*>(at);
  if (const absl::Status right = check_pool(handle, pool); !right.ok()) {
    close_pool(pool);
    return absl::Status(right.code(), cat("a peer's KV pool: ", std::string(right.message())));
  }
  return pool;
}

void CudaDevice::close_pool(const std::byte* pool) {
  if (make_current().ok()) (void)cudaIpcCloseMemHandle(const_cast<std::byte*>(pool));
}

}  // namespace baton::kernels::cuda
