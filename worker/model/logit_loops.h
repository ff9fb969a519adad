#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace baton::worker {

// The sampler's loops over whole vocabularies. Written once as vectors and compiled for several instruction
// sets; which one runs is chosen when the program is loaded. Every element is computed alone and every sum
// has the order stated here, so the bits are those of the plain loop on any machine (design I1).
namespace logit_loops {

// e^x for x <= 0 in double from additions and multiplications alone (relative error below 1e-14): equal on
// every machine, unlike libm's, which picks its code by the CPU. 0 below -700.
double fixed_exp(double x);

// Whether none of the maxima that LogitRows has says that a logit is not finite.
bool all_finite(std::span<const float> maxima);

// to[i] = logits[i] where bit i % 32 of allowed[i / 32] is set, -inf elsewhere and behind the last word.
void copy_allowed(std::span<const float> logits, std::span<const uint32_t> allowed, float* to);

// Appends what is >= floor to values and ids, ascending; both have room for everything. Blocks whose maximum
// is below the floor are not looked at. Returns how many.
size_t gather_above(std::span<const float> logits, const float* maxima, float floor, float* values,
                    int32_t* ids);

// weights[i] = fixed_exp((values[i] - max) / temperature)
void exp_weights(std::span<const float> values, double max, double temperature, double* weights);

// sums[k] = the sum over i = k, k + 4, k + 8 ... of fixed_exp(values[i] - max), ascending.
void exp_sums(std::span<const float> values, double max, double (&sums)[4]);

}  // namespace logit_loops
}  // namespace baton::worker
