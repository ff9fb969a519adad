#include "kernels/cpu/instruction_set.h"

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
  if (limit.empty() && has_avx512() && __builtin_cpu_supports("avx512vnni")) return &kAvx512VnniKernels;
  if (limit == "scalar") return &kScalarKernels;
  if (!limit.empty() && limit != "avx2" && limit != "avx512")
    return absl::InvalidArgumentError(absl::StrCat("isa_limit \"", limit, "\": want scalar, avx2 or avx512"));
  if (limit != "avx2" && has_avx512()) return &kAvx512Kernels;
  if (has_avx2()) return &kAvx2Kernels;
  return &kScalarKernels;
}

}  // namespace baton::kernels::cpu
