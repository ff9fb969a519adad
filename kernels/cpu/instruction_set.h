#pragma once

#include <string>

#include "base/status.h"
#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {

// The fastest kernels this machine can run, at most those of `limit` ("scalar", "avx2", "avx2-vnni",
// "avx512", "" = any). Asked once at start. All choices compute the same bits.
absl::StatusOr<const Kernels*> choose_kernels(const std::string& limit);

}  // namespace baton::kernels::cpu
