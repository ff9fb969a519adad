#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/simd/table.h"

namespace baton::kernels::cpu {

constinit const Kernels kAvx512VnniKernels = simd::table_of<avx512::Lanes<true>>("avx512-vnni");

}  // namespace baton::kernels::cpu
