#pragma once

#include <optional>
#include <string_view>

#include "kernels/backend.h"

namespace baton::cli {

// The KV types as manifests and options name them: f32, bf16, f16, int8.
std::optional<kernels::KvType> parse_kv_type(std::string_view name);

// How bf16 weights and bf16 KV are multiplied: f32, bf16dot, fastest; invariant: as bf16dot, by a library
// (kernels/device_options.h).
inline kernels::Numerics parse_numerics(std::string_view name) {
  if (name == "fastest") return kernels::Numerics::kFastest;
  return name == "bf16dot" || name == "invariant" ? kernels::Numerics::kBrainDots : kernels::Numerics::kFloat;
}

}  // namespace baton::cli
