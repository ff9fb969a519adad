#include "cli/cluster/kv_type.h"

#include <utility>

namespace baton::cli {

std::optional<kernels::KvType> parse_kv_type(std::string_view name) {
  constexpr std::pair<std::string_view, kernels::KvType> kNames[] = {{"f32", kernels::KvType::kF32},
                                                                     {"bf16", kernels::KvType::kBF16},
                                                                     {"f16", kernels::KvType::kF16},
                                                                     {"int8", kernels::KvType::kInt8}};
  for (const auto& [text, type] : kNames)
    if (name == text) return type;
  return std::nullopt;
}

}  // namespace baton::cli
