#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "transport/collectives/shm_region.h"

namespace baton {

// One rank's place in a group that shares memory.
struct ShmSeat {
  int rank = 0;
  std::shared_ptr<ShmRegion> region;
  OwnedFd own_line;                               // this rank's life: held until it leaves
  std::vector<OwnedFd> lines;                     // watched ends, by rank; own place empty
  Duration spin = std::chrono::microseconds(50);  // before a wait sleeps; 0 where ranks outnumber cores
};

// Waits for words of other ranks: spins for a short while, then sleeps in slices, and between slices looks
// whether the rank waited for lives and whether another rank has given up. The first failure is written into
// the region, so that all ranks name the same culprit, and every later wait fails with it.
//
// Thread: one. Owns the seat.
class ShmWatch {
 public:
  explicit ShmWatch(ShmSeat seat) : seat_(std::move(seat)) {}

  int rank() const { return seat_.rank; }
  int size() const { return seat_.region->ranks(); }
  ShmRegion& region() { return *seat_.region; }

  // Until `word`, which `peer` writes, has reached `want`.
  absl::Status await(FutexWord& word, uint32_t want, int peer, Instant deadline) {
    if (reached(word.load(), want)) [[likely]]
      return absl::OkStatus();
    return await_slowly(word, want, peer, deadline);
  }
  // OK unless some rank has broken the group.
  absl::Status whole() const;
  // The same, and looks, without waiting, whether the other ranks live: at most every 50 ms, or now.
  absl::Status check();
  absl::Status check_now();
  // The ranks do not do the same thing: breaks the group.
  absl::Status disagree(int peer, std::string_view how);
  // From any thread: breaks the group, `culprit` did not come.
  void interrupt(int culprit) { (void)fail(culprit, Why::kLate); }
  // -1 unless the group is broken.
  int culprit() const;

 private:
  enum class Why : uint8_t { kGone = 1, kLate = 2, kDisagree = 3 };

  absl::Status await_slowly(FutexWord& word, uint32_t want, int peer, Instant deadline);
  bool spin(const FutexWord& word, uint32_t want) const;
  absl::Status fail(int culprit, Why why);
  absl::Status status_of(uint32_t broken) const;

  ShmSeat seat_;
  SteadyClock clock_;
  Instant next_look_{};
};

}  // namespace baton
