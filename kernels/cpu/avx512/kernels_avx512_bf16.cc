#include "kernels/cpu/avx512/lanes.h"
#include "kernels/cpu/simd/attend_loops.h"
#include "kernels/cpu/simd/linear_loops.h"

namespace baton::kernels::cpu {
namespace {

using BrainLanes = avx512::Lanes<true, true>;

void dots(const uint32_t* a, const uint32_t* b, float* sums) {
  const auto words = [](const uint32_t* p) {
    return BrainLanes::load_codes(reinterpret_cast<const std::byte*>(p));
  };
  BrainLanes::store(sums, BrainLanes::brain_dot(BrainLanes::load(sums), words(a), words(b)));
}

}  // namespace

constinit const BrainKernels kAvx512BrainKernels = {
    .linear_brain = simd::linear_typed<BrainLanes, DType::kBF16>,
    .attend_brain = simd::attend_brain<BrainLanes>,
    .dots = dots};

}  // namespace baton::kernels::cpu
