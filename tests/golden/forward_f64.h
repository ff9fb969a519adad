#pragma once

#include <span>
#include <vector>

#include "base/ids.h"
#include "tests/support/random_model.h"

namespace baton::testing {

// Rotation frequencies as the papers give them, written apart from the product's code.
std::vector<double> plain_frequencies(double base, int dims);
std::vector<double> llama3_frequencies(double base, int dims, double factor, double low, double high,
                                       double original);
std::vector<double> yarn_frequencies(double base, int dims, double factor, double fast, double slow,
                                     double original);

// The forward pass of the Llama family in float64, straight from the definition: no cache, no blocks, no
// sharing of code with the product. `magnitude` multiplies cos and sin. Returns the logits of every position:
// [tokens][vocab].
std::vector<std::vector<double>> forward_f64(const RandomModel& model, std::span<const TokenId> tokens,
                                             const std::vector<double>& inv_freq, double magnitude = 1.0);

}  // namespace baton::testing
