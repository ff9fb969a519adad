#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "kernels/backend.h"

namespace baton::kernels {

// Checks that every backend makes before it takes a model's shape. Errors name the wrong value.
absl::Status check_attention(const AttentionSpec& attention, const RopeSpec& rope);
absl::Status check_linear(const LinearSpec& spec);
absl::Status check_embedding(const WeightView& table);
// `attention` must have been set first.
absl::Status check_kv(std::span<const std::byte> pool, const KvGeometry& geometry,
                      const AttentionSpec& attention);

// The step's own promises (backend.h); a broken one ends the process.
void check_batch(const StepBatch& batch, const KvGeometry& geometry);

}  // namespace baton::kernels
