#pragma once

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "transport/data/pull_lane.h"

namespace baton::transport {

struct ReadPart {
  uint64_t offset = 0;  // in the peer's memory
  std::span<std::byte> to;
};

// Reads of peers' memory that are under way, each made of parts. Knows nothing of sessions: a read outlives
// its peer, because its places are in use until every part has ended. Thread: progress. Owns: what `done`
// holds, until then.
class Reads {
 public:
  using Done = std::function<void(const absl::Status&)>;

  // `done` is called exactly once, inside poll(), when all parts have ended: ok, or the first error.
  void start(PeerMemory& memory, std::span<const ReadPart> parts, Done done);
  int poll(PullLane& lane);
  size_t under_way() const { return reads_.size(); }

 private:
  struct Read {
    size_t parts_left = 0;
    absl::Status status;
    Done done;
  };
  std::map<ReadId, Read> reads_;
  ReadId started_ = 0;
};

}  // namespace baton::transport
