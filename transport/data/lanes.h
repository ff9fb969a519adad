#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace baton::transport {

// How bytes get from one worker's pool into another's (design section 5).
enum class Lane : uint8_t {
  kLocal = 1,   // same host: the receiver maps the sender's pool read-only and copies
  kStream = 2,  // the bytes travel with the offer: `socket`, `am` over UCX, `loopback` in one process
  kGet = 4,     // the receiver has its NIC read the sender's pool (a PullLane)
};

// What carries Lane::kStream, and the messages of every lane, between processes.
enum class StreamFabric : uint8_t { kSocket, kAm };

// What a worker may use. Of those that both sides allow and a test transfer verified, the first is taken:
// local, get, stream.
struct AllowedLanes {
  bool local = true;
  bool stream = true;
  bool get = false;
  bool get_if_rdma = false;  // allows get where the data address belongs to an RDMA device
  bool emulate_get = false;  // get without a NIC's reads, for tests and benchmarks (docs/adr/0016)
  StreamFabric fabric = StreamFabric::kSocket;
  uint8_t mask() const {
    return static_cast<uint8_t>((local ? static_cast<int>(Lane::kLocal) : 0) |
                                (stream ? static_cast<int>(Lane::kStream) : 0) |
                                (get ? static_cast<int>(Lane::kGet) : 0));
  }
  friend bool operator==(const AllowedLanes&, const AllowedLanes&) = default;
};

// "auto" (local, else get where there is RDMA, else socket), "local", "socket", "am", "get" or, which no
// manifest can ask for, "get-emulated". UCX over TCP runs for the last and for `am` only: it obeys PUT and
// GET of anybody who can connect.
absl::StatusOr<AllowedLanes> parse_lanes(std::string_view name);
// "local socket" of a mask, for messages.
std::string lane_names(uint8_t mask, std::string_view stream_lane);

constexpr bool contains(uint8_t mask, Lane lane) { return (mask & static_cast<uint8_t>(lane)) != 0; }

}  // namespace baton::transport
