#pragma once

#include <string>

#include "base/status.h"
#include "kernels/cuda_library.h"

namespace baton::kernels::cuda {

// The table of algorithms of a model's products (tuner.h), as text, made on the device that the request
// names. Owns a stream for as long as it takes. Thread: one.
absl::StatusOr<std::string> tune_device(const TuneRequest& request);

}  // namespace baton::kernels::cuda
