#include "kernels/cpu/avx2/lanes.h"
#include "kernels/cpu/simd/table.h"

namespace baton::kernels::cpu {
namespace {

// The 256-bit vpdpbusd of processors without AVX-512.
struct VnniDots {
  static constexpr bool kAllCodes = true;
  static __m256i dot(__m256i acc, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(acc, w, x); }
};

}  // namespace

constinit const Kernels kAvx2VnniKernels = simd::table_of<avx2::Lanes<VnniDots>>("avx2-vnni");

}  // namespace baton::kernels::cpu
