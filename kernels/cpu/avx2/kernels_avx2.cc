#include "kernels/cpu/avx2/lanes.h"
#include "kernels/cpu/simd/table.h"

namespace baton::kernels::cpu {

constinit const Kernels kAvx2Kernels = simd::table_of<avx2::Lanes<avx2::ProductDots>>("avx2");

}  // namespace baton::kernels::cpu
