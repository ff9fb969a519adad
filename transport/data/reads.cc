#include "transport/data/reads.h"

#include <utility>

#include "base/check.h"

namespace baton::transport {

void Reads::start(PeerMemory& memory, std::span<const ReadPart> parts, Done done) {
  BATON_CHECK(!parts.empty(), "a read of nothing");
  const ReadId id = ++started_;
  reads_[id] = {.parts_left = parts.size(), .status = {}, .done = std::move(done)};
  for (const ReadPart& part : parts) {
    BATON_CHECK(part.offset <= memory.bytes() && part.to.size() <= memory.bytes() - part.offset,
                "a read outside the peer's memory");
    memory.read(part.offset, part.to, id);
  }
}

int Reads::poll(PullLane& lane) {
  std::vector<EndedRead> ended;
  const int done = lane.poll(ended);
  for (const EndedRead& part : ended) {
    const auto it = reads_.find(part.id);
    BATON_CHECK(it != reads_.end(), "a read ended twice");
    Read& read = it->second;
    if (read.status.ok()) read.status = part.status;
    if (--read.parts_left > 0) continue;
    const Read over = std::move(read);
    reads_.erase(it);
    over.done(over.status);
  }
  return done + static_cast<int>(ended.size());
}

}  // namespace baton::transport
