#include "worker/model/token_weights.h"

#include <algorithm>
#include <bit>

#include "worker/model/logit_loops.h"

namespace baton::worker {
namespace {

// Bins of weights in (0, 1], most likely first: the exponent and three mantissa bits, counted down from 1.
constexpr int kBinShift = 49;
constexpr uint64_t kFirstBin = std::bit_cast<uint64_t>(1.0) >> kBinShift;

int32_t bin_of(double weight) {
  const uint64_t steps = kFirstBin - (std::bit_cast<uint64_t>(weight) >> kBinShift);
  return static_cast<int32_t>(std::min<uint64_t>(steps, TokenWeights::kBins - 1));
}

// The largest weight of a bin.
double top_of(int32_t bin) {
  return std::bit_cast<double>(((kFirstBin - static_cast<uint64_t>(bin) + 1) << kBinShift) - 1);
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

void TokenWeights::add_to(Masses& masses) const {
  double total = masses.total;
  for (const double w : weights_) {
    if (w == 0) continue;
    masses.bins[bin_of(w)] += w;
    total += w;
  }
  masses.total = total;
}

void TokenWeights::add_from(size_t first, double& sum) const {
  double own = sum;
  for (const double w : std::span(weights_).subspan(first)) own += w;
  sum = own;
}

void TokenWeights::add_to(std::span<double> sums, std::span<const TokenWeights* const> rows) {
  size_t done = 0;
  if (rows.size() == kAbreast) {
    const double* w[kAbreast];
    double own[kAbreast];
    done = rows[0]->weights_.size();
    for (size_t k = 0; k < kAbreast; ++k) {
      w[k] = rows[k]->weights_.data();
      own[k] = sums[k];
      done = std::min(done, rows[k]->weights_.size());
    }
    for (size_t i = 0; i < done; ++i)
      for (size_t k = 0; k < kAbreast; ++k) own[k] += w[k][i];
    std::ranges::copy(own, sums.begin());
  }
  for (size_t k = 0; k < rows.size(); ++k) rows[k]->add_from(done, sums[k]);
}

TokenWeights::Crossing TokenWeights::crossing(const Masses& masses, float top_p) {
  const double target = std::max(double{top_p}, 0.0) * masses.total;
  int32_t bin = 0;
  double above = 0;
  while (bin + 1 < kBins && above + masses.bins[bin] < target) above += masses.bins[bin++];
  return {target - above, bin};
}

void TokenWeights::members(int32_t bin, std::vector<Member>& out) const {
  const double lowest = bin + 1 < kBins ? top_of(bin + 1) : 0, top = top_of(bin);
  for (size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > lowest && weights_[i] <= top) out.push_back({weights_[i], ids_[i]});
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
