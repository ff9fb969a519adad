#pragma once

#include <string>

#include "cli/bench/measured_pair.h"

namespace baton::cli {

// Two data planes as workers have them: the sender offers as many pieces at a time as a worker does, the
// receiver lands each in a random place of its pool. `lane`: local, socket, am, get.
MovePair lane_pair(const std::string& lane, uint64_t pool_bytes, bool checksum);

}  // namespace baton::cli
