#include "kernels/cuda/bit_classes.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

#include "base/cat.h"
#include "base/check.h"

namespace baton::kernels::cuda {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// What one algorithm was seen to do.
struct Candidate {
  std::optional<uint64_t> signature;  // empty: its bits depend on the rows
  std::vector<double> times;          // of each range, over all probes; infinite: it does not serve it
};

Candidate look_at(std::span<const RowRange> ranges, std::span<const Trial> trials) {
  Candidate out{trials.front().signature, {}};
  for (const Trial& t : trials)
    if (!t.uniform || t.signature != trials.front().signature) out.signature.reset();
  for (const RowRange& range : ranges) {
    double sum = 0;
    for (const int rows : probed_rows(range)) {
      const auto ran = std::ranges::find(trials, rows, &Trial::rows);
      sum += ran == trials.end() ? kNever : ran->microseconds;
    }
    out.times.push_back(sum);
  }
  return out;
}

std::map<int, Candidate> look_at_all(std::span<const RowRange> ranges, std::span<const Trial> trials) {
  std::map<int, std::vector<Trial>> of_algorithm;
  for (const Trial& t : trials) of_algorithm[t.algorithm].push_back(t);
  std::map<int, Candidate> out;
  for (const auto& [algorithm, own] : of_algorithm) out.emplace(algorithm, look_at(ranges, own));
  return out;
}

// The class of one signature; how many ranges it reaches stands in algorithms.size().
BitClass class_of(uint64_t signature, const std::map<int, Candidate>& candidates,
                  std::span<const double> fastest) {
  BitClass out{.signature = signature, .algorithms = {}};
  for (size_t r = 0; r < fastest.size(); ++r) {
    int best = -1;
    double time = kNever;
    for (const auto& [algorithm, c] : candidates)
      if (c.signature == signature && c.times[r] < time) best = algorithm, time = c.times[r];
    if (best < 0) break;
    out.algorithms.push_back(best);
    const double ratio = fastest[r] > 0 ? time / fastest[r] : 1;
    out.slowdown += ratio / static_cast<double>(fastest.size());
    out.worst = std::max(out.worst, ratio);
  }
  return out;
}

}  // namespace

std::vector<RowRange> row_ranges(int most_rows) {
  BATON_CHECK(most_rows >= 1);
  std::vector<RowRange> out = {{1, 1}};
  for (int last = 8; out.back().last < most_rows; last *= 2)
    out.push_back({out.back().last + 1, std::min(last, most_rows)});
  return out;
}

std::vector<int> probed_rows(const RowRange& range) {
  std::vector<int> out = {range.first};
  const int ragged = range.first + (range.last - range.first) / 2 + 1;
  if (ragged < range.last) out.push_back(ragged);
  if (range.last > range.first) out.push_back(range.last);
  return out;
}

absl::StatusOr<BitClass> choose_bit_class(std::span<const RowRange> ranges, std::span<const Trial> trials) {
  const std::map<int, Candidate> candidates = look_at_all(ranges, trials);
  std::vector<double> fastest(ranges.size(), kNever);
  for (const auto& [algorithm, c] : candidates)
    for (size_t r = 0; r < ranges.size(); ++r) fastest[r] = std::min(fastest[r], c.times[r]);
  std::optional<BitClass> best;
  size_t reached = 0;
  for (const auto& [algorithm, c] : candidates) {
    if (!c.signature) continue;
    const BitClass found = class_of(*c.signature, candidates, fastest);
    reached = std::max(reached, found.algorithms.size());
    if (found.algorithms.size() == ranges.size() && (!best || found.slowdown < best->slowdown)) best = found;
  }
  if (best) return *best;
  return absl::NotFoundError(cat("no algorithms with the same bits for ", ranges[reached].first, " to ",
                                 ranges[reached].last, " rows as for fewer, of ", candidates.size(),
                                 " tried"));
}

}  // namespace baton::kernels::cuda
