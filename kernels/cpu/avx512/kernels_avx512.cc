#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/simd/table.h"

namespace baton::kernels::cpu {

constinit const Kernels kAvx512Kernels = simd::table_of<avx512::Lanes<false>>("avx512");

}  // namespace baton::kernels::cpu
