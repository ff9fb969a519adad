#pragma once

#include <cstddef>

#include "base/status.h"

namespace baton::kernels::cuda {

// Bytes from `at` to the end of the device allocation that it is in, as the driver knows it, whoever made it:
// what another process says of its memory is checked against this. Thread: any, with the device current.
absl::StatusOr<size_t> bytes_behind(const void* at);

}  // namespace baton::kernels::cuda
