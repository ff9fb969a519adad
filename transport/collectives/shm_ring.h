#pragma once

#include <span>

#include "transport/collectives/shm_watch.h"

namespace baton {

// The writing end of a ring of bytes in shared memory: messages of any length, each behind a 16-byte header
// with its length. A message longer than the ring streams through it while the readers take it out. The
// writer may be ahead of its readers by ShmRegion::kRingBytes.
//
// Thread: one. Borrows the watch.
class ShmRingWriter {
 public:
  // To one rank, or to all others (to = own rank).
  ShmRingWriter(ShmWatch& watch, int to);
  absl::Status write(std::span<const std::byte> message, Instant deadline);

 private:
  absl::Status put(std::span<const std::byte> bytes, Instant deadline);
  absl::Status await_room(uint32_t bytes, Instant deadline);
  void publish();

  ShmWatch* watch_;
  FutexWord* head_;
  std::byte* ring_;
  std::vector<std::pair<int, FutexWord*>> tails_;  // by reader
  uint32_t written_ = 0;
  uint32_t published_ = 0;
};

// The reading end. Thread: one. Borrows the watch.
class ShmRingReader {
 public:
  ShmRingReader(ShmWatch& watch, int from, int to);
  // The next message, which must have this length.
  absl::Status read(std::span<std::byte> message, Instant deadline);

 private:
  absl::Status get(std::span<std::byte> bytes, Instant deadline);
  void publish();

  ShmWatch* watch_;
  int from_;
  FutexWord* head_;
  FutexWord* tail_;
  const std::byte* ring_;
  uint32_t taken_ = 0;
  uint32_t published_ = 0;
};

}  // namespace baton
