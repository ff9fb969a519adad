#pragma once

#include "kernels/cpu/contract_math.h"

namespace baton::kernels::cpu::simd {

// contract::exponential on 16 lanes. kNotPositive: x is known not to be above 0, which saves its upper bound.
template <class V, bool kNotPositive = false>
[[gnu::always_inline]] inline typename V::F exponential(typename V::F x) {
  using namespace contract;
  auto clamped = V::max(V::set(kExpMin), x);
  if constexpr (!kNotPositive) clamped = V::min(V::set(kExpMax), clamped);
  const auto shifted = V::fma(clamped, V::set(kLog2E), V::set(kRoundMagic));
  const auto n = V::sub_i(V::as_int(shifted), V::set_i(kRoundMagicBits - 127));
  const auto whole = V::sub(shifted, V::set(kRoundMagic));
  const auto r = V::fnma(whole, V::set(kLn2Low), V::fnma(whole, V::set(kLn2High), clamped));
  auto p = V::set(kExpCoefficients[0]);
#pragma GCC unroll 8
  for (int i = 1; i < 8; ++i) p = V::fma(p, r, V::set(kExpCoefficients[i]));
  const auto power = V::as_float(V::template shift_left<23>(n));
  return V::zero_below(x, V::set(kExpMin), V::mul(p, power));
}

// contract::brain_weight before it is rounded.
template <class V>
[[gnu::always_inline]] inline typename V::F brain_weight(typename V::F x) {
  using namespace contract;
  const auto clamped = V::max(V::set(kExpMin), x);
  const auto shifted = V::fma(clamped, V::set(kLog2E), V::set(kRoundMagic));
  const auto n = V::sub_i(V::as_int(shifted), V::set_i(kRoundMagicBits - 127));
  const auto r = V::fnma(V::sub(shifted, V::set(kRoundMagic)), V::set(kLn2), clamped);
  auto p = V::set(kExpCoefficients[3]);
#pragma GCC unroll 4
  for (int i = 4; i < 8; ++i) p = V::fma(p, r, V::set(kExpCoefficients[i]));
  return V::zero_below(x, V::set(kExpMin), V::mul(p, V::as_float(V::template shift_left<23>(n))));
}

}  // namespace baton::kernels::cpu::simd
