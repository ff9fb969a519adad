#pragma once

#include <optional>
#include <string_view>

#include "kernels/backend.h"

namespace baton::cli {

// The KV types as manifests and options name them: f32, bf16, f16.
std::optional<kernels::KvType> parse_kv_type(std::string_view name);

}  // namespace baton::cli
