#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/bench/measured_pair.h"
#include "transport/tls/tls_stream.h"

namespace baton::cli {

// Two data planes as workers have them: the sender offers as many pieces at a time as a worker does, the
// receiver lands each in a random place of its pool. `lane`: local, socket, am, get, get-emulated, and
// socket-tls, for which both need `tls`.
struct LaneOptions {
  std::string lane;
  uint64_t pool_bytes = 0;
  bool checksum = true;
  std::optional<transport::StreamSecurity> tls;
  std::string sender = "127.0.0.1", receiver = "127.0.0.1";  // numeric addresses
};
MovePair lane_pair(const LaneOptions& options);
// A lane with a name that says which.
bool is_bench_lane(const std::string& lane);
// Not `local`, nor `socket-tls`, whose certificate is made for the run.
bool goes_between_machines(const std::string& lane);
// `am` and `get` refuse (docs/adr/0004).
bool goes_without_checksums(const std::string& lane);

}  // namespace baton::cli
