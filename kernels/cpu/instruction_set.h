#pragma once

#include <string>

#include "base/status.h"
#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {

// The fastest kernels this machine can run, at most those of `limit` ("scalar", "avx2", "avx2-vnni",
// "avx512", "avx512-vnni", "avx512-vnni-bf16"; "" = any). Asked at start; the first time may take a
// millisecond. All choices compute the same bits.
absl::StatusOr<const Kernels*> choose_kernels(const std::string& limit);

// The processor has tile registers (AMX) with integer products, and this process may use them from now on.
bool tiles_granted();

}  // namespace baton::kernels::cpu
