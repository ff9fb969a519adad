#pragma once

#include "base/clock.h"

namespace baton::load {

// When the requests of one group start. Closed loop: `at_once` are kept open, a new one starts when one ends.
// Open loop (at_once 0): request i starts at i x period whatever the server does. A closed loop with count 0
// goes on as long as another group of the run does. A pure value. Example: {.count = 10, .period = 2 s} at 5
// s wants requests 0, 1 and 2 started.
struct Arrivals {
  int count = 0;
  int at_once = 0;
  Duration period{};

  bool closed_loop() const { return at_once > 0; }
  bool endless() const { return closed_loop() && count == 0; }
  // How many to start now, when `started` were and `open` of them have not ended.
  int due(int started, int open, Duration elapsed) const;
  // When the next one is due that is due by time alone; Duration::max() when none is.
  Duration next(int started) const;
};

}  // namespace baton::load
