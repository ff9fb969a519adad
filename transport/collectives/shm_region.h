#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "transport/collectives/futex_word.h"
#include "transport/collectives/life_line.h"

namespace baton {

// What a rank tells the others at each phase of a collective; a cache line of its own.
struct alignas(128) PhaseLine {
  FutexWord phase;  // phases this rank has published
  uint64_t tag[2];  // what its slot of each parity holds: operation << 56 | bytes; checked by every reader
};

// One writer, several readers, a stream of bytes: head = bytes written, tails = bytes each reader is done
// with.
struct alignas(128) RingCounter {
  FutexWord count;
};

// The memory that the ranks of one group on one host share: for each rank two slots (collectives alternate
// between them), a ring to all others and a ring to each. It is an anonymous memory file, passed on as a
// descriptor: there is no name, so nothing can collide or be left behind. Pages are taken when first touched.
// Owns the mapping and the descriptor. Thread: any; the contents are synchronised by the words inside.
class ShmRegion {
 public:
  static constexpr int kMostRanks = 64;
  static constexpr size_t kSlotBytes = size_t{1} << 20;
  // As much as a stage of a pipeline may be ahead of the next one: activations of some hundred rows.
  static constexpr uint32_t kRingBytes = uint32_t{1} << 21;

  static absl::StatusOr<std::shared_ptr<ShmRegion>> create(int ranks);
  // A region that another process created; refuses a file of another size.
  static absl::StatusOr<std::shared_ptr<ShmRegion>> map(OwnedFd file, int ranks);
  ~ShmRegion();
  ShmRegion(const ShmRegion&) = delete;
  ShmRegion& operator=(const ShmRegion&) = delete;

  int fd() const { return file_.get(); }
  int ranks() const { return ranks_; }

  // 0, or why the group is broken (ShmCommunicator packs it); the first to find out writes it.
  std::atomic<uint32_t>& broken();
  PhaseLine& line(int rank);
  std::byte* slot(int rank, int parity);
  // Rings are numbered: rank * ranks + to; to = rank is the ring to all others (each reader has a tail).
  FutexWord& ring_head(int from, int to);
  FutexWord& ring_tail(int from, int to, int reader);
  std::byte* ring_bytes(int from, int to);

 private:
  ShmRegion(OwnedFd file, std::byte* base, int ranks) : file_(std::move(file)), base_(base), ranks_(ranks) {}
  static size_t bytes(int ranks);
  size_t ring(int from, int to) const { return static_cast<size_t>(from) * ranks_ + to; }
  RingCounter* counters() const;

  OwnedFd file_;
  std::byte* base_;
  int ranks_;
};

}  // namespace baton
