#pragma once

#include <type_traits>

namespace baton::kernels::cpu::simd {

// Calls f with n (1..kMax) as a compile-time constant, so that a tile's size is known where its loops are
// unrolled.
template <int kMax, class Function>
[[gnu::always_inline]] inline void with_constant(int n, const Function& f) {
  if constexpr (kMax == 1) {
    f(std::integral_constant<int, 1>{});
  } else if (n == kMax) {
    f(std::integral_constant<int, kMax>{});
  } else {
    with_constant<kMax - 1>(n, f);
  }
}

// Calls f with 0 .. kSteps - 1 as compile-time constants.
template <int kSteps, class Function>
[[gnu::always_inline]] inline void each_step(const Function& f) {
  f(std::integral_constant<int, 0>{});
  if constexpr (kSteps == 2) f(std::integral_constant<int, 1>{});
}

}  // namespace baton::kernels::cpu::simd
