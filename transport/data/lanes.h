#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace baton::transport {

// How bytes get from one worker's pool into another's (design section 5).
enum class Lane : uint8_t {
  kLocal = 1,   // same host: the receiver maps the sender's pool read-only and copies
  kStream = 2,  // the bytes travel with the offer: `am` over UCX, `loopback` in one process
};

// What a worker may use. Both = auto: local when the peers share a host and the mapping was verified, else
// stream.
struct AllowedLanes {
  bool local = true;
  bool stream = true;
  uint8_t mask() const {
    return static_cast<uint8_t>((local ? static_cast<int>(Lane::kLocal) : 0) |
                                (stream ? static_cast<int>(Lane::kStream) : 0));
  }
  friend bool operator==(const AllowedLanes&, const AllowedLanes&) = default;
};

// "auto", "local" or "am".
absl::StatusOr<AllowedLanes> parse_lanes(std::string_view name);
// "local am" of a mask, for messages.
std::string lane_names(uint8_t mask);

constexpr bool contains(uint8_t mask, Lane lane) { return (mask & static_cast<uint8_t>(lane)) != 0; }

}  // namespace baton::transport
