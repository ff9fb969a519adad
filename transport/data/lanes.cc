#include "transport/data/lanes.h"

#include "base/cat.h"

namespace baton::transport {

absl::StatusOr<AllowedLanes> parse_lanes(std::string_view name) {
  if (name == "auto") return AllowedLanes{.local = true, .stream = true, .get_if_rdma = true};
  if (name == "local") return AllowedLanes{.local = true, .stream = false};
  if (name == "socket") return AllowedLanes{.local = false, .stream = true};
  if (name == "am") return AllowedLanes{.local = false, .stream = true, .fabric = StreamFabric::kAm};
  if (name == "get") return AllowedLanes{.local = false, .stream = false, .get = true};
  if (name == "get-emulated")
    return AllowedLanes{.local = false, .stream = false, .get = true, .emulate_get = true};
  return absl::InvalidArgumentError(cat("lane: want auto, local, socket, am or get, got ", name));
}

std::string lane_names(uint8_t mask, std::string_view stream_lane) {
  std::string out;
  if (contains(mask, Lane::kLocal)) out += "local";
  if (contains(mask, Lane::kGet)) out += out.empty() ? "get" : " get";
  if (contains(mask, Lane::kStream)) out += cat(out.empty() ? "" : " ", stream_lane);
  return out.empty() ? "none" : out;
}

}  // namespace baton::transport
