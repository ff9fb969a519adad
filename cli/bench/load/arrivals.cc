#include "cli/bench/load/arrivals.h"

#include <algorithm>

namespace baton::load {

int Arrivals::due(int started, int open, Duration elapsed) const {
  const int left = endless() ? at_once : count - started;
  if (closed_loop()) return std::clamp(at_once - open, 0, left);
  const auto arrived = period > Duration::zero() ? elapsed / period + 1 : static_cast<Duration::rep>(count);
  return std::clamp(static_cast<int>(std::min<Duration::rep>(arrived, count)) - started, 0, left);
}

Duration Arrivals::next(int started) const {
  return closed_loop() || started >= count ? Duration::max() : period * started;
}

}  // namespace baton::load
