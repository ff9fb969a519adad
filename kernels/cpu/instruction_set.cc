#include "kernels/cpu/instruction_set.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/rng.h"
#include "kernels/cpu/brain_choice.h"
#include "kernels/cpu/contract.h"

namespace baton::kernels::cpu {
namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// The bf16 dot instruction is used where it computes what contract::brain_dot says; seen on every machine so
// far, but its rounding is not promised by all makers.
bool brain_dots_keep_contract() {
  Rng rng(1);
  for (int round = 0; round < 256; ++round) {
    uint32_t a[16], b[16];
    float sums[16], want[16];
    for (int i = 0; i < 16; ++i) {
      // Exponents near each other, so that every product counts; a few rounds of any bits.
      const auto number = [&](uint32_t bits) {
        return round < 16 ? bits : (bits & 0x80ff80ffu) | 0x3f003f00u;
      };
      a[i] = number(static_cast<uint32_t>(rng.next()));
      b[i] = number(static_cast<uint32_t>(rng.next()));
      sums[i] =
          std::bit_cast<float>(static_cast<uint32_t>(rng.next()) & (round < 16 ? 0xffffffffu : 0xbfffffffu));
      want[i] = contract::brain_dot(sums[i], std::bit_cast<contract::BrainPair>(a[i]),
                                    std::bit_cast<contract::BrainPair>(b[i]));
    }
    kAvx512BrainKernels.dots(a, b, sums);
    for (int i = 0; i < 16; ++i)
      if (std::bit_cast<uint32_t>(sums[i]) != std::bit_cast<uint32_t>(want[i]) && !std::isnan(want[i]))
        return false;
  }
  return true;
}

// With the bf16 dot instruction wherever it does the work.
const Kernels& vnni_with_brain_dots() {
  static const Kernels kernels = [] {
    Kernels k = kAvx512VnniKernels;
    k.name = "avx512-vnni-bf16";
    k.linear_brain = kAvx512BrainKernels.linear_brain;
    k.attend_brain = kAvx512BrainKernels.attend_brain;
    return k;
  }();
  return kernels;
}

// With every instruction there is, where it is the faster one.
const Kernels& best_of_vnni() {
  static const Kernels kernels = [] {
    Kernels k = kAvx512VnniKernels;
    const BrainLoops plain = {k.linear_brain, k.attend_brain};
    BrainLoops brain = plain;
    if (__builtin_cpu_supports("avx512bf16") && brain_dots_keep_contract())
      brain = faster_of({kAvx512BrainKernels.linear_brain, kAvx512BrainKernels.attend_brain}, plain);
    k.linear_brain = brain.linear;
    k.attend_brain = brain.attend;
    const bool tiles = tiles_granted();
    if (tiles) k.linear_tiled = kAmxTileKernels.linear;
    k.name = brain == plain ? (tiles ? "avx512-vnni-amx" : "avx512-vnni")
                            : (tiles ? "avx512-vnni-bf16-amx" : "avx512-vnni-bf16");
    return k;
  }();
  return kernels;
}

}  // namespace

bool tiles_granted() {
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;  // cpuid leaf 7, edx
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) == 0 || (d & kInt8) == 0) return false;
    // Linux hands them out on request.
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}

absl::StatusOr<const Kernels*> choose_kernels(const std::string& limit) {
  static constexpr std::string_view kLimits[] = {
      "scalar", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "avx512-vnni-bf16", ""};
  const auto allowed = std::ranges::find(kLimits, limit) - std::begin(kLimits);
  if (allowed == std::ssize(kLimits))
    return absl::InvalidArgumentError(absl::StrCat(
        "isa_limit \"", limit, "\": want scalar, avx2, avx2-vnni, avx512, avx512-vnni or avx512-vnni-bf16"));
  const bool vnni = has_avx512() && __builtin_cpu_supports("avx512vnni");
  if (allowed == 6 && vnni) return &best_of_vnni();
  if (allowed == 5 && vnni && __builtin_cpu_supports("avx512bf16") && brain_dots_keep_contract())
    return &vnni_with_brain_dots();
  if (allowed >= 4 && vnni) return &kAvx512VnniKernels;
  // Dots of 256 bits are twice as fast as 16-bit products of 512.
  const bool dots = has_avx2() && __builtin_cpu_supports("avxvnni");
  if (allowed == 3 && has_avx512()) return &kAvx512Kernels;
  if (allowed >= 2 && dots) return &kAvx2VnniKernels;
  if (allowed >= 3 && has_avx512()) return &kAvx512Kernels;
  if (allowed >= 1 && has_avx2()) return &kAvx2Kernels;
  return &kScalarKernels;
}

}  // namespace baton::kernels::cpu
