#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/ids.h"

namespace baton::worker {

// The tokens of a row that may be drawn, or those of one rank's share of it, with their weights: the
// sampler's steps behind top-k (worker/model/sampler.h), as parts. Every sum is in double by ascending id and
// goes on from what it is given, so that shares that follow each other add up as the whole row does, bit by
// bit. Example: weights 1, 0.5 of ids 3, 7 in one share and 0.5 of id 9 in the next; top_p is 0.7:
//   add_to(masses)   total 1.5, then 2; bins of 1 and of 0.5 hold 1 and 1
//   crossing()       1.4 is wanted, the bin of 1 has 1: the bin of 0.5 is crossed, 0.4 of it is wanted
//   cut()            of members 7, 9 the first is enough: 9 is dropped by keep()
//   add_to(sum)      1.5, then 1.5
//   walk()           u = 0.9 gives target 1.35: past id 3, token 7, found by the first share
// Thread: one. Allocates when a row has more tokens than any before.
class TokenWeights {
 public:
  // Weights are counted by likelihood: 8 bins for each power of two below the weight 1 of the best; the last
  // bin takes the rest.
  static constexpr int32_t kBins = 512;
  struct Masses {
    double total = 0;
    std::array<double, kBins> bins{};
  };
  // Where top-p's mass is reached: in this bin, of which so much is wanted.
  struct Crossing {
    double wanted = 0;
    int32_t bin = 0;
    int32_t unused = 0;
  };
  struct Member {  // of a bin
    double weight = 0;
    TokenId id = 0;
    int32_t unused = 0;
  };
  // The least likely token that stays; ties go to the lower id.
  struct Cut {
    double weight = 0;
    TokenId id = std::numeric_limits<TokenId>::max();
  };

  // Without top-k, logits below this are never drawn: tokens less likely than e^-40 of the best are beyond
  // the reach of 53 random bits.
  static float floor(float max, double temperature) { return static_cast<float>(max - 40.0 * temperature); }

  explicit TokenWeights(size_t room = 0) { weights_.reserve(room); }

  // The tokens `ids`, ascending: borrowed as long as this is used. Weight e^((logit - max) / temperature).
  void weigh(std::span<const TokenId> ids, std::span<const float> logits, double max, double temperature);
  // Tokens less likely than min_p of the best are dropped; the best stays.
  void drop_below(float min_p);
  void add_to(Masses& masses) const;
  static Crossing crossing(const Masses& masses, float top_p);
  // The tokens of a bin, appended.
  void members(int32_t bin, std::vector<Member>& out) const;
  // `members`, those of all shares, are sorted.
  static Cut cut(std::span<Member> members, double wanted);
  void keep(const Cut& cut);
  void add_to(double& sum) const { add_from(0, sum); }
  // add_to() of up to kAbreast rows, which takes no longer than that of one: additions to one sum wait for
  // one another.
  static constexpr size_t kAbreast = 4;
  static void add_to(std::span<double> sums, std::span<const TokenWeights* const> rows);
  // The token at which the sum, which begins at `sum`, is above `target`; else the last one there is, -1 when
  // there is none.
  TokenId walk(double sum, double target) const;
  bool empty() const;

 private:
  void add_from(size_t first, double& sum) const;

  std::span<const TokenId> ids_;
  std::vector<double> weights_;  // parallel to ids_; 0 = dropped
};

}  // namespace baton::worker
