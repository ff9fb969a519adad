#include "worker/model/logit_loops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/logit_blocks.h"

// CMakeLists.txt says for which instruction sets a loop is compiled beside the build's own.
#ifndef BATON_CLONES
#define BATON_CLONES
#endif
#define BATON_INLINE __attribute__((always_inline)) inline

namespace baton::worker::logit_loops {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kBlock = kernels::kLogitBlock;
using Doubles = double __attribute__((vector_size(64)));
using Longs = int64_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using HalfFloats = float __attribute__((vector_size(32)));

constexpr double kInvLn2 = 1.4426950408889634074;
constexpr double kLn2High = 6.93147180369123816490e-01;  // fdlibm's split of ln 2
constexpr double kLn2Low = 1.90821492927058770002e-10;
constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer, held in the low mantissa bits
constexpr double kSmallest = -700.0;
constexpr double kFactors[] = {
    1.0 / 479001600.0,  // Taylor, degree 13
    1.0 / 39916800.0,  1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0,
    1.0 / 120.0,       1.0 / 24.0,      1.0 / 6.0,      0.5,           1.0,          1.0};

// By reference: a vector that is returned or passed would need the caller's instruction set.
template <class From, class To>
BATON_INLINE void take_bits(const From& from, To& to) {
  static_assert(sizeof(From) == sizeof(To));
  std::memcpy(&to, &from, sizeof(To));
}

// Replaces x by e^x. Value is double or a vector of them, Bits the integers of the same width.
template <class Value, class Bits>
BATON_INLINE void exp_in_place(Value& x) {
  const Value shifted = x * kInvLn2 + kRound;
  const Value n = shifted - kRound;
  const Value r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2)/2
  Value p = r * (1.0 / 6227020800.0) + kFactors[0];
  for (size_t i = 1; i < std::size(kFactors); ++i) p = p * r + kFactors[i];
  // n as an integer is what the shift by kRound left in the mantissa.
  Bits bits;
  take_bits(shifted, bits);
  bits = (bits - std::bit_cast<int64_t>(kRound) + 1023) << 52;
  Value power;
  take_bits(bits, power);
  x = x > kSmallest ? p * power : Value{};
}

BATON_INLINE void load(const float* p, Doubles& out) {
  HalfFloats v;
  std::memcpy(&v, p, sizeof(v));
  out = __builtin_convertvector(v, Doubles);
}

}  // namespace

double fixed_exp(double x) {
  exp_in_place<double, int64_t>(x);
  return x;
}

bool all_finite(std::span<const float> maxima) {
  bool finite = true;
  for (const float max : maxima) finite &= max == max;
  return finite;
}

BATON_CLONES void copy_allowed(std::span<const float> logits, std::span<const uint32_t> allowed, float* to) {
  constexpr float kMasked = -std::numeric_limits<float>::infinity();
  constexpr Ints kBits = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  const Floats masked = Floats{} + kMasked;
  const size_t words = std::min(allowed.size(), logits.size() / 32);
  for (size_t i = 0; i < words; ++i)
    for (size_t half = 0; half < 2; ++half) {
      const size_t at = i * 32 + half * 16;
      Floats x;
      std::memcpy(&x, logits.data() + at, sizeof(x));
      const auto bits = static_cast<int32_t>(allowed[i] >> (half * 16) & 0xFFFF);
      x = ((Ints{} + bits) & kBits) != 0 ? x : masked;
      std::memcpy(to + at, &x, sizeof(x));
    }
  for (size_t i = words * 32; i < logits.size(); ++i)
    to[i] = i / 32 < allowed.size() && (allowed[i / 32] >> (i % 32) & 1) != 0 ? logits[i] : kMasked;
}

BATON_CLONES size_t gather_above(std::span<const float> logits, const float* maxima, float floor,
                                 float* values, int32_t* ids) {
  size_t count = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    if (!(maxima[begin / kBlock] >= floor)) continue;
    const size_t end = std::min(logits.size(), begin + kBlock);
    for (size_t i = begin; i < end; ++i) {  // without a branch: hits come in any order
      values[count] = logits[i];
      ids[count] = static_cast<int32_t>(i);
      count += logits[i] >= floor;
    }
  }
  return count;
}

BATON_CLONES void exp_weights(std::span<const float> values, double max, double temperature,
                              double* weights) {
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    Doubles x;
    load(values.data() + i, x);
    x = (x - max) / temperature;
    exp_in_place<Doubles, Longs>(x);
    std::memcpy(weights + i, &x, sizeof(x));
  }
  for (; i < values.size(); ++i) weights[i] = fixed_exp((values[i] - max) / temperature);
}

BATON_CLONES void exp_sums(std::span<const float> values, double max, double (&sums)[4]) {
  for (double& sum : sums) sum = 0;
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    Doubles x;
    load(values.data() + i, x);
    x = x - max;
    exp_in_place<Doubles, Longs>(x);
    for (size_t k = 0; k < 4; ++k) sums[k] += x[k];
    for (size_t k = 0; k < 4; ++k) sums[k] += x[4 + k];
  }
  for (; i < values.size(); ++i) sums[i % 4] += fixed_exp(values[i] - max);
}

}  // namespace baton::worker::logit_loops
