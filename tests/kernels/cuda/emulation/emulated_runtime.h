#pragma once

#include <cuda_runtime_api.h>

#include <functional>

// What tests ask of the emulated runtime, and how kernels reach its streams. Thread: one.
namespace baton::emulated {

// Runs `work` now, or when the graph that the stream records is launched.
void enqueue(cudaStream_t stream, std::function<void()> work);

// Ends the test when these bytes begin in an allocation and end outside of it: what the copy engine may be
// told to read.
void check_inside_allocation(const void* begin, size_t bytes);

struct Counts {
  int launches = 0;  // kernels run, from graphs too
  int graphs_made = 0;
  int graphs_launched = 0;
  int pools_mapped = 0;
  int events_held = 0;
  size_t bytes_held = 0;  // device memory
};
Counts& counts();
// Device memory of an emulated device; what cudaGetDeviceCount says.
struct Limits {
  int devices = 1;
  size_t memory = size_t{8} << 30;
  cudaError_t count_error = cudaSuccess;
  int stream_queries = 0;  // that find a stream not ready before one finds it done
  int event_queries = 0;   // that find an event not ready before one finds it done
  // Work on a stream is done when somebody waits for it, and not before; memory that it may use is not freed.
  bool lazy = false;
  cudaError_t wait_error =
      cudaSuccess;  // what waiting for a stream says: cudaErrorNotReady = kernels never end
};
Limits& limits();

}  // namespace baton::emulated
