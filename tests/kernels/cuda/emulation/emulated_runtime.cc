#include "tests/kernels/cuda/emulation/emulated_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/address_range.h"
#include "tests/kernels/cuda/emulation/emulated_device.h"

struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};
struct EmulatedEvent {
  int queries_left = 0;  // until it is done
  EmulatedStream* stream = nullptr;
  uint64_t place = 0;  // in its queue
};
struct EmulatedStream {
  EmulatedGraph* recording = nullptr;
  int device = 0;
  std::deque<std::function<void()>> queue = {};
  uint64_t enqueued = 0;
};

namespace {

std::set<EmulatedStream*> streams;

void run(EmulatedStream& stream, uint64_t place) {
  while (!stream.queue.empty() && stream.enqueued - stream.queue.size() < place) {
    const std::function<void()> work = std::move(stream.queue.front());
    stream.queue.pop_front();
    work();
  }
  baton::emulated::end_kernels();
}

std::map<void*, size_t> sizes;
std::set<void*> pinned;
thread_local int current_device = 0;
thread_local int captures = 0;  // begun by this thread
thread_local cudaError_t last_error = cudaSuccess;
thread_local int stream_queries = 0;  // that found a stream not ready

// CUDA keeps an error for cudaGetLastError(), "not ready" too.
cudaError_t kept(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What was asked of the legacy stream and may not have happened yet. Streams of the program's own do not wait
// for it: it happens when the host waits for it, and not before.
std::vector<std::function<void()>> legacy;
std::recursive_mutex mutex;  // of these two: ranks of a group are threads
void end_legacy() {
  const std::lock_guard lock(mutex);
  for (const auto& work : std::exchange(legacy, {})) work();
}

// What is not written reads as NaN, in floats and in bf16.
cudaError_t allocate(void** data, size_t bytes) {
  const std::lock_guard lock(mutex);
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*data, 0xff, bytes);
  sizes[*data] = bytes;
  return cudaSuccess;
}

}  // namespace

namespace baton::emulated {

void enqueue(cudaStream_t stream, std::function<void()> work) {
  BATON_CHECK(stream->device == current_device, "a stream of another device than the thread's");
  if (stream->recording != nullptr) {
    stream->recording->work.push_back(std::move(work));
  } else if (limits().lazy) {
    stream->queue.push_back(std::move(work));
    ++stream->enqueued;
  } else {
    work();
  }
}

void check_inside_allocation(const void* begin, size_t bytes) {
  const std::lock_guard lock(mutex);
  const auto* from = static_cast<const std::byte*>(begin);
  auto after = sizes.upper_bound(const_cast<void*>(begin));
  if (after == sizes.begin()) return;
  const auto& [base, size] = *--after;
  const auto inside = static_cast<size_t>(from - static_cast<const std::byte*>(base));
  if (inside < size) BATON_CHECK(inside + bytes <= size, "memory beyond an allocation");
}

Counts& counts() {
  static Counts counts;
  return counts;
}

Limits& limits() {
  static Limits limits;
  return limits;
}

}  // namespace baton::emulated

using baton::emulated::counts;
using baton::emulated::limits;

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "emulated error";
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = limits().count_error == cudaSuccess ? limits().devices : 0;
  return limits().count_error;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "emulated", .uuid = {}, .multiProcessorCount = 2, .major = 9, .minor = 0};
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = limits().memory;
  *free = limits().memory - counts().bytes_held;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex);
  if (counts().bytes_held + bytes > limits().memory) return kept(cudaErrorMemoryAllocation);
  counts().bytes_held += bytes;
  return allocate(data, bytes);
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return captures > 0 ? kept(cudaErrorStreamCaptureUnsupported) : allocate(data, bytes);
}
cudaError_t cudaFree(void* data) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex);
  end_legacy();
  for (const EmulatedStream* stream : streams)
    BATON_CHECK(stream->queue.empty(), "memory is freed while work that may use it is under way");
  counts().bytes_held -= sizes.at(data);
  return cudaFreeHost(data);
}
cudaError_t cudaFreeHost(void* data) {
  const std::lock_guard lock(mutex);
  sizes.erase(data);
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* data, size_t, unsigned) {
  return pinned.insert(data).second ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaHostUnregister(void* data) {
  return pinned.erase(data) == 1 ? cudaSuccess : cudaErrorInvalidValue;
}
// A handle is the address: another "process" is another part of this one.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* data) {
  *handle = {};
  std::memcpy(handle->reserved, &data, sizeof data);
  return sizes.contains(data) ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaIpcOpenMemHandle(void** data, cudaIpcMemHandle_t handle, unsigned) {
  std::memcpy(data, handle.reserved, sizeof *data);
  if (!sizes.contains(*data)) return cudaErrorInvalidValue;
  ++counts().pools_mapped;
  return cudaSuccess;
}
cudaError_t cudaIpcCloseMemHandle(void*) {
  --counts().pools_mapped;
  return cudaSuccess;
}
namespace baton::kernels::cuda {
absl::StatusOr<size_t> bytes_behind(const void* at) { return sizes.at(const_cast<void*>(at)); }
}  // namespace baton::kernels::cuda
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex);
  legacy.emplace_back([=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
// From pageable memory: returns when the bytes are read, not when they have arrived.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, int kind) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(mutex);
  const auto* begin = static_cast<const unsigned char*>(from);
  if (kind == cudaMemcpyHostToDevice) {
    legacy.emplace_back([to, staged = std::vector<unsigned char>(begin, begin + bytes)] {
      if (!staged.empty()) std::memcpy(to, staged.data(), staged.size());
    });
    return cudaSuccess;
  }
  end_legacy();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t stream) {
  baton::emulated::enqueue(stream, [=] {
    baton::emulated::end_kernels();
    std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream{.recording = nullptr, .device = current_device};
  const std::lock_guard lock(mutex);
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  baton::emulated::end_kernels();
  if (stream != nullptr) {
    run(*stream, stream->enqueued);
    return limits().wait_error;
  }
  end_legacy();
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (captures > 0) return kept(cudaErrorStreamCaptureUnsupported);
  baton::emulated::end_kernels();
  if (stream_queries++ < limits().stream_queries) return kept(cudaErrorNotReady);
  stream_queries = 0;
  run(*stream, stream->enqueued);
  return kept(limits().wait_error);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  run(*stream, stream->enqueued);
  const std::lock_guard lock(mutex);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  ++counts().events_held;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {.queries_left = limits().event_queries, .stream = stream, .place = stream->enqueued};
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (limits().wait_error != cudaSuccess) return kept(limits().wait_error);
  if (event->queries_left-- > 0) return kept(cudaErrorNotReady);
  run(*event->stream, event->place);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --counts().events_held;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
  stream->recording = new EmulatedGraph;
  ++captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->recording, nullptr);
  captures -= *graph != nullptr;
  return *graph == nullptr ? cudaErrorInvalidValue : cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  ++counts().graphs_made;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ++counts().graphs_launched;
  for (const auto& work : executable->work) baton::emulated::enqueue(stream, work);
  return cudaSuccess;
}
