#pragma once

#include <string>

#include "cli/bench/measured_pair.h"

// What lanes are held against: the simplest code that moves the same bytes.
namespace baton::cli {

// One core copies random pieces of one pool to random places of another; `around_cache` with non-temporal
// stores. The receiver does nothing.
MovePair memcpy_pair(uint64_t pool_bytes, bool around_cache);
// A blocking TCP connection: a header of 64 bytes and a random piece, received straight into a random place.
// `host`: the receiver's numeric address.
MovePair raw_socket_pair(uint64_t pool_bytes, const std::string& host);

}  // namespace baton::cli
