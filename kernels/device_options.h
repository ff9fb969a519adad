#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "kernels/backend.h"

namespace baton::kernels {

// How matrices of layers are held and multiplied, whatever the file has: in 8-bit floats (e4m3) with a scale
// for each 128 x 128 weights and for each row of activations, or not.
enum class Quantization : uint8_t { kNone, kFp8 };

// What only "cuda" knows, beside BackendOptions; each is a numerics class. Of `numerics` all but the defaults
// want kBrainDots.
struct DeviceOptions {
  Quantization quantization = Quantization::kNone;
  // Not empty: matrices are multiplied by a library, with the algorithms of this file (`baton tune`), which
  // have the same bits for every number of rows: numerics invariant.
  std::string algorithms;
  bool plain() const { return quantization == Quantization::kNone && algorithms.empty(); }
};

// make_backend() with them. kInvalidArgument for a device that does not know them.
absl::StatusOr<std::unique_ptr<Backend>> make_device_backend(const BackendOptions& options,
                                                             const DeviceOptions& device);

}  // namespace baton::kernels
