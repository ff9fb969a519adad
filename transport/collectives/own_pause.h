#pragma once

#include "base/clock.h"
#include "base/timers.h"

namespace baton {

// Tells a peer that is late from a thread that did not run itself (a stopped process, a paused machine):
// while it waits it says what time it is, again and again, and gets by how much its deadlines move. Thread:
// one.
//
// Example: asked every 50 ms at most, after 40 ms: 0; after 4 s: 3.95 s.
class OwnPause {
 public:
  explicit OwnPause(Instant now) : last_(now) {}
  // `meant`: for so long at most it wanted to be away since it was last asked.
  Duration until(Instant now, Duration meant = {}) {
    const Duration over = now - last_ - meant;
    last_ = now;
    return over > timers::kOwnPause ? over : Duration::zero();
  }

 private:
  Instant last_;
};

}  // namespace baton
