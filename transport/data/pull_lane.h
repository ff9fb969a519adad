#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "transport/data/lanes.h"

namespace baton::transport {

using ReadId = uint64_t;

struct EndedRead {
  ReadId id = 0;
  absl::Status status;  // ok: the bytes lie in their place
};

// One peer's pool, as far as this process may read it. Its end closes the way there; reads that are still
// under way end with an error, later, in PullLane::poll(). Thread: progress.
class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  virtual uint64_t bytes() const = 0;  // readable, from 0
  // Starts to read [offset, offset + to.size()), which lies within bytes(). `to` belongs to the read until
  // its end is told.
  virtual void read(uint64_t offset, std::span<std::byte> to, ReadId id) = 0;
};

// A lane on which the receiver has the bytes fetched: by its NIC, its GPU, or a fabric that does the same in
// software. Reads go on without the progress thread, so a place is in use until its read has ended (design
// I2), which the end of the peer hastens but does not replace. One file per lane; whoever wires the data
// plane makes it. Thread: progress. Errors: a ticket that cannot be used; a read that failed.
class PullLane {
 public:
  virtual ~PullLane() = default;
  virtual Lane lane() const = 0;
  virtual std::string_view name() const = 0;
  // What a peer needs to read this worker's pool file (peer_pool.h: page with the nonce, test data, pool).
  // Travels in the hello, at most kMaxTicket bytes.
  virtual const std::string& ticket() const = 0;
  // The memory behind a peer's ticket; nothing of the ticket is believed before it is checked.
  virtual absl::StatusOr<std::unique_ptr<PeerMemory>> open(const std::string& ticket) = 0;
  // Moves things on and appends what has ended; returns how much was done.
  virtual int poll(std::vector<EndedRead>& ended) = 0;
  // Becomes readable when poll() has something to do, provided that arm() returned true; -1: never.
  virtual int descriptor() const = 0;
  virtual bool arm() = 0;
};
inline constexpr size_t kMaxTicket = 4096;
inline constexpr size_t kMaxTickets = 3;  // in a hello; 16 KiB are the most that a frame's head may have

// The pull lanes of one data plane, the best first.
struct PullLanes {
  std::vector<std::unique_ptr<PullLane>> lanes;
  std::string missing;  // why one that was wished for is not there; told with each pairing
};

}  // namespace baton::transport
