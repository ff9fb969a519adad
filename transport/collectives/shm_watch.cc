#include "transport/collectives/shm_watch.h"

#include <immintrin.h>

#include <algorithm>

#include "base/cat.h"
#include "transport/collectives/own_pause.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr Duration kSlice = 50ms;  // of sleep between two looks at the rank waited for
constexpr Duration kBetweenLooks = 50ms;
constexpr int kPausesAClockRead = 32;

// The word `broken`: culprit + 1, finder, why.
uint32_t packed(int culprit, int finder, int why) {
  return static_cast<uint32_t>(culprit + 1) | static_cast<uint32_t>(finder) << 8 |
         static_cast<uint32_t>(why) << 16;
}

}  // namespace

bool ShmWatch::spin(const FutexWord& word, uint32_t want) const {
  if (seat_.spin <= Duration::zero()) return false;
  const Instant until = clock_.now() + seat_.spin;
  do {
    for (int i = 0; i < kPausesAClockRead; ++i) {
      if (reached(word.load(), want)) return true;
      _mm_pause();
    }
  } while (clock_.now() < until);
  return false;
}

absl::Status ShmWatch::await_slowly(FutexWord& word, uint32_t want, int peer, Instant deadline) {
  OwnPause pause(clock_.now());
  if (spin(word, want)) return absl::OkStatus();
  Duration meant = seat_.spin;
  for (;;) {
    const uint32_t broken = region().broken().load(std::memory_order_acquire);
    const bool gone = line_is_cut(seat_.lines[peer].get());
    const uint32_t seen = word.load();  // after the look: what a rank did before it left counts
    if (reached(seen, want)) return absl::OkStatus();
    if (broken != 0) return status_of(broken);
    if (gone) return fail(peer, Why::kGone);
    const Instant now = clock_.now();
    deadline += pause.until(now, meant);
    const Duration left = deadline - now;
    if (left <= Duration::zero()) return fail(peer, Why::kLate);
    meant = std::min(left, kSlice);
    word.sleep_while(seen, meant);
  }
}

int ShmWatch::culprit() const {
  return static_cast<int>(seat_.region->broken().load(std::memory_order_acquire) & 0xff) - 1;
}

absl::Status ShmWatch::whole() const {
  const uint32_t broken = seat_.region->broken().load(std::memory_order_acquire);
  return broken == 0 ? absl::OkStatus() : status_of(broken);
}

absl::Status ShmWatch::check() {
  if (clock_.now() < next_look_) return whole();
  return check_now();
}

absl::Status ShmWatch::check_now() {
  RETURN_IF_ERROR(whole());
  next_look_ = clock_.now() + kBetweenLooks;
  for (int r = 0; r < size(); ++r)
    if (r != rank() && line_is_cut(seat_.lines[r].get())) return fail(r, Why::kGone);
  return absl::OkStatus();
}

absl::Status ShmWatch::disagree(int peer, std::string_view how) {
  const absl::Status s = fail(peer, Why::kDisagree);
  return absl::Status(s.code(), cat(s.message(), ": ", how));
}

absl::Status ShmWatch::fail(int culprit, Why why) {
  uint32_t broken = 0;
  const uint32_t mine = packed(culprit, rank(), static_cast<int>(why));
  if (region().broken().compare_exchange_strong(broken, mine)) broken = mine;
  return status_of(broken);
}

absl::Status ShmWatch::status_of(uint32_t broken) const {
  const int culprit = static_cast<int>(broken & 0xff) - 1;
  const int finder = static_cast<int>(broken >> 8 & 0xff);
  const std::string by = finder == rank() ? "" : cat(" (found by rank ", finder, ")");
  switch (static_cast<Why>(broken >> 16)) {
    case Why::kGone:
      return absl::UnavailableError(cat("rank ", culprit, " of the group is gone", by));
    case Why::kLate:
      return absl::DeadlineExceededError(
          cat("rank ", culprit, " of the group did not come before the deadline", by));
    case Why::kDisagree:
      break;
  }
  return absl::InternalError(cat("rank ", culprit, " of the group does something else", by));
}

}  // namespace baton
