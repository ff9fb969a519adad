#include "worker/model/token_weights.h"

#include <algorithm>
#include <bit>

#include "worker/model/logit_loops.h"

namespace baton::worker {
namespace {

// Of weights in (0, 1], most likely first: the exponent and three mantissa bits, counted down from 1.
int32_t bin_of(double weight) {
  const uint64_t steps = (std::bit_cast<uint64_t>(1.0) >> 49) - (std::bit_cast<uint64_t>(weight) >> 49);
  return static_cast<int32_t>(std::min<uint64_t>(steps, TokenWeights::kBins - 1));
}

}  // namespace

void TokenWeights::weigh(std::span<const TokenId> ids, std::span<const float> logits, double max,
                         double temperature) {
  ids_ = ids;
  weights_.resize(ids.size());
  logit_loops::exp_weights(logits, max, temperature, weights_.data());
}

void TokenWeights::drop_below(float min_p) {
  // The best token's weight is 1, so the threshold is min_p itself.
  const double threshold = std::min(double{min_p}, 1.0);
  for (double& w : weights_)
    if (w < threshold) w = 0;
}

template <class Add>
void TokenWeights::abreast(std::span<const TokenWeights* const> rows, const Add& add) {
  size_t done = 0;
  if (rows.size() == kAbreast) {
    const double* w[kAbreast];
    done = rows[0]->weights_.size();
    for (size_t k = 0; k < kAbreast; ++k) {
      w[k] = rows[k]->weights_.data();
      done = std::min(done, rows[k]->weights_.size());
    }
    for (size_t i = 0; i < done; ++i) add(0, w[0][i]), add(1, w[1][i]), add(2, w[2][i]), add(3, w[3][i]);
  }
  for (size_t k = 0; k < rows.size(); ++k)
    for (const double weight : std::span(rows[k]->weights_).subspan(done)) add(k, weight);
}

void TokenWeights::add_to(std::span<Masses> masses, std::span<const TokenWeights* const> rows) {
  double totals[kAbreast];
  for (size_t k = 0; k < rows.size(); ++k) totals[k] = masses[k].total;
  abreast(rows, [&](size_t k, double weight) {
    if (weight == 0) return;
    masses[k].bins[bin_of(weight)] += weight;
    totals[k] += weight;
  });
  for (size_t k = 0; k < rows.size(); ++k) masses[k].total = totals[k];
}

void TokenWeights::add_to(std::span<double> sums, std::span<const TokenWeights* const> rows) {
  double own[kAbreast];
  std::ranges::copy(sums, own);
  abreast(rows, [&own](size_t k, double weight) { own[k] += weight; });
  std::copy_n(own, sums.size(), sums.begin());
}

void TokenWeights::add_to(Masses& masses) const {
  const TokenWeights* const row = this;
  add_to({&masses, 1}, {&row, 1});
}

void TokenWeights::add_to(double& sum) const {
  const TokenWeights* const row = this;
  add_to({&sum, 1}, {&row, 1});
}

TokenWeights::Crossing TokenWeights::crossing(const Masses& masses, float top_p) {
  const double target = std::max(double{top_p}, 0.0) * masses.total;
  int32_t bin = 0;
  double above = 0;
  while (bin + 1 < kBins && above + masses.bins[bin] < target) above += masses.bins[bin++];
  return {target - above, bin};
}

void TokenWeights::members(int32_t bin, std::vector<Member>& out) const {
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0 && bin_of(weights_[i]) == bin) out.push_back({weights_[i], ids_[i]});
}

TokenWeights::Cut TokenWeights::cut(std::span<Member> members, double wanted) {
  std::ranges::sort(members, [](const Member& a, const Member& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  Cut cut;  // everything stays, when rounding left the bin empty
  double mass = 0;
  for (const Member& m : members) {
    cut = {m.weight, m.id};
    mass += m.weight;
    if (mass >= wanted) break;
  }
  return cut;
}

void TokenWeights::keep(const Cut& cut) {
  for (size_t i = 0; i < weights_.size(); ++i)
    if (!(weights_[i] > cut.weight || (weights_[i] == cut.weight && ids_[i] <= cut.id))) weights_[i] = 0;
}

TokenId TokenWeights::walk(double sum, double target) const {
  TokenId last = -1;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    last = ids_[i];
    sum += weights_[i];
    if (sum > target) break;
  }
  return last;
}

bool TokenWeights::empty() const {
  return std::ranges::all_of(weights_, [](double w) { return w == 0; });
}

}  // namespace baton::worker
