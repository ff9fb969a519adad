#pragma once

#include <string>

#include "base/ids.h"
#include "base/status.h"
#include "cli/cluster/home.h"

namespace baton::cli {

// Numbers of a worker's lives: each larger than all before it, or its coordinator and its peers take the new
// life for an old one. `wall` (ms) is larger unless the clock was set back, so the state folder remembers the
// largest number of each worker. What cannot be written is an error, and the number good all the same.
struct NewLife {
  Incarnation number;
  absl::Status remembered;
};
NewLife new_life(const Home& home, const std::string& worker, uint64_t wall);
// Somebody takes lives up to `number` for over.
absl::Status remember_life(const Home& home, const std::string& worker, Incarnation number);

}  // namespace baton::cli
