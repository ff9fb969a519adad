#include "kernels/cpu/avx2/lanes.h"
#include "kernels/cpu/simd/table.h"

namespace baton::kernels::cpu {

constinit const Kernels kAvx2VnniKernels = simd::table_of<avx2::Lanes<true>>("avx2-vnni");

}  // namespace baton::kernels::cpu
