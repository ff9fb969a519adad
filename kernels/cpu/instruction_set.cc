#include "kernels/cpu/instruction_set.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace baton::kernels::cpu {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

absl::StatusOr<const Kernels*> choose_kernels(const std::string& limit) {
  static constexpr std::string_view kLimits[] = {"scalar", "avx2", "avx2-vnni", "avx512", ""};
  const auto allowed = std::ranges::find(kLimits, limit) - std::begin(kLimits);
  if (allowed == std::ssize(kLimits))
    return absl::InvalidArgumentError(
        absl::StrCat("isa_limit \"", limit, "\": want scalar, avx2, avx2-vnni or avx512"));
  if (allowed >= 4 && has_avx512() && __builtin_cpu_supports("avx512vnni")) return &kAvx512VnniKernels;
  // Dots of 256 bits are twice as fast as 16-bit products of 512.
  const bool dots = has_avx2() && __builtin_cpu_supports("avxvnni");
  if (allowed == 3 && has_avx512()) return &kAvx512Kernels;
  if (allowed >= 2 && dots) return &kAvx2VnniKernels;
  if (allowed >= 3 && has_avx512()) return &kAvx512Kernels;
  if (allowed >= 1 && has_avx2()) return &kAvx2Kernels;
  return &kScalarKernels;
}

}  // namespace baton::kernels::cpu
