#pragma once

#include <cuda_runtime_api.h>

namespace baton::kernels::cuda {

// Where kernels are launched. With `overlap` a kernel may start while the one before it ends (programmatic
// dependent launch, sm_90): it then waits itself, before it touches what another kernel has touched
// (begin_kernel in device_words.cuh). Every kernel of this folder does, so a kernel that has ended means that
// all before it have. The same results either way.
struct LaunchStream {
  cudaStream_t stream = nullptr;
  bool overlap = false;
};

}  // namespace baton::kernels::cuda
