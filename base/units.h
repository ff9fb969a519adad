#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace baton {

// "4Gi", "512Mi", "64K", "1000": bytes. Ki Mi Gi Ti are powers of 1024, K M G T (and k) of 1000. nullopt when
// it is no such number or does not fit.
std::optional<uint64_t> parse_bytes(std::string_view text);
// "500ms", "2s", "1.5s", "10m", "1h", "250us". A bare number is refused: a quantity names its unit.
std::optional<Duration> parse_duration(std::string_view text);
std::string format_bytes(uint64_t bytes);        // "1.5 GiB"
std::string format_duration(Duration duration);  // "1.5 s", "12 ms"

// The candidate nearest to `word` by edit distance, if it is near enough to be a slip of the hand.
template <class Range>
std::optional<std::string> nearest_name(std::string_view word, const Range& candidates);
int edit_distance(std::string_view a, std::string_view b);

template <class Range>
std::optional<std::string> nearest_name(std::string_view word, const Range& candidates) {
  std::optional<std::string> best;
  int best_distance = static_cast<int>(word.size()) / 2 + 1;
  for (const auto& c : candidates) {
    const int d = edit_distance(word, c);
    if (d < best_distance) {
      best_distance = d;
      best = std::string(c);
    }
  }
  return best;
}

}  // namespace baton
