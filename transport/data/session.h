#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "transport/data/checksum.h"
#include "transport/data/framed_data_plane.h"
#include "transport/data/lane_watch.h"
#include "transport/data/offer_landing.h"

// Private parts of FramedDataPlane, shared by its sources.
namespace baton::transport {

inline constexpr size_t kLocalPieceBytes = 1 << 20;   // one copy holds the progress thread for ~0.1 ms
inline constexpr size_t kMaxPieceBytes = 64 << 20;    // nothing larger is ever believed
inline constexpr size_t kMaxPendingCopies = 4096;     // of one peer
inline constexpr size_t kPullPieceBytes = 512 << 10;  // summed when it has landed, while in the cache
inline constexpr size_t kPullWindow = 4 << 20;        // being fetched from one peer at a time, at most

inline bool run_fits(const PoolRun& run, size_t pool_bytes) {
  return run.bytes > 0 && run.offset % kPoolAlignment == 0 && run.bytes % kPoolAlignment == 0 &&
         run.offset <= pool_bytes && run.bytes <= pool_bytes - run.offset;
}

// How fast a peer takes what is offered to it: bytes answered over the time in which any were under way, a
// sample for each MiB or second, smoothed. Answers come in bursts, and all of a burst waited for its first: a
// sample takes a millisecond at least, or the rest of a burst would look like the fastest link there is.
// Starts from the test transfer of the handshake.
struct OfferRate {
  double bytes_per_second = 0;
  bool guessed = false;  // of the way back: the first sample replaces it
  double last_sample = 0;
  absl::flat_hash_map<uint64_t, uint64_t> under_way;  // cookie -> bytes
  Instant busy_since{};
  Duration busy{};  // before busy_since, of this sample
  uint64_t busy_bytes = 0;

  void offered(uint64_t cookie, uint64_t bytes, Instant now) {
    if (under_way.empty()) busy_since = now;
    under_way[cookie] = bytes;
  }
  enum class Answer : uint8_t { kUnknown, kKnown, kSample };
  // kUnknown: an answer to nothing; kSample: bytes_per_second is news.
  // `moved`: a lane on which the receiver fetches does not fetch what it refuses.
  Answer answered(uint64_t cookie, Instant now, bool moved = true) {
    const auto it = under_way.find(cookie);
    if (it == under_way.end()) return Answer::kUnknown;
    if (moved) busy_bytes += it->second;
    under_way.erase(it);
    busy += now - busy_since;
    busy_since = now;
    const bool enough = busy_bytes >= kSampleBytes && busy >= kSampleLeast;
    if (!enough && busy < kSampleTime) return Answer::kKnown;
    const double sample = static_cast<double>(busy_bytes) / std::max(to_seconds(busy), 1e-9);
    last_sample = sample;
    bytes_per_second += (std::exchange(guessed, false) ? 1 : kWeight) * (sample - bytes_per_second);
    busy = {};
    busy_bytes = 0;
    return Answer::kSample;
  }
  static constexpr uint64_t kSampleBytes = 1 << 20;
  static constexpr Duration kSampleLeast = std::chrono::milliseconds(1);
  static constexpr Duration kSampleTime = std::chrono::seconds(1);
  static constexpr double kWeight = 0.2;
};

// What is fetched from one peer at a time: a tenth of a second's worth. A fabric may serve all reads that are
// under way at once, so that they end together: on a slow link the first must not wait for many others.
// 6 MB/s (50 Mbit/s): 1 MiB, 0.17 s; from 42 MB/s on: 4 MiB.
inline size_t pull_window(double bytes_per_second) {
  constexpr double kSeconds = 0.1;
  const double wanted = std::min<double>(bytes_per_second * kSeconds, kPullWindow);
  return std::max(static_cast<size_t>(wanted), 2 * kPullPieceBytes);
}

struct FramedDataPlane::Session {
  struct Pulling {
    uint64_t bytes = 0;
    Instant deadline;
  };
  LinkId link = 0;
  bool outgoing = false;
  bool ended = false;
  bool refused = false;               // lingers until its refusal has left
  WorkerRef peer;                     // expected, then verified; empty until an incoming hello is let in
  std::optional<HelloFrame> unnamed;  // came from a worker that nobody has told us of yet
  std::unique_ptr<Handshake> handshake;
  Instant deadline = kNever;
  Instant pong_deadline = kNever;  // of a ready session that somebody wants to replace
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  std::deque<OfferFrame> copies;          // offered, to be fetched: Lane::kLocal and pull lanes
  std::map<uint64_t, Pulling> pulls;      // being fetched by a pull lane
  uint64_t pulled_bytes = 0;              // of these
  OfferRate pull_rate;                    // of these; from the test transfer on
  Instant progress_deadline{};            // of the next of these to end
  uint64_t pulls_made = 0;                // test transfers, too
  uint64_t test = 0;                      // the test transfer of a pull lane that runs
  Instant test_deadline = kNever;         // of it
  std::unique_ptr<OfferLanding> landing;  // the offer whose payload is being read, lane `socket`
  OfferRate rate;
  LaneWatch watch;                        // of my offers
  std::optional<StreamTest> stream_test;  // of the peer's, while it runs
  Instant next_check{};                   // the peer may not ask sooner

  // Offers may be taken from `copies`.
  bool may_fetch() const {
    return !copies.empty() && (pulls.empty() || pulled_bytes < pull_window(pull_rate.bytes_per_second));
  }
  // Somebody connected and has not said who it is, or was not let in.
  bool nameless() const { return !outgoing && peer.name.empty(); }
  bool ready() const { return handshake->state() == Handshake::State::kReady; }
  Lane lane() const { return handshake->lane(); }
  bool pulls_lane() const { return lane() != Lane::kLocal && lane() != Lane::kStream; }
  // Of what is being fetched: each for itself, and of the next to end.
  Instant pull_deadline() const {
    Instant first = pulls.empty() ? kNever : progress_deadline;
    for (const auto& [number, pulling] : pulls) first = std::min(first, pulling.deadline);
    return first;
  }
};

// Written by the progress thread, read by any.
struct FramedDataPlane::Counters {
  using Count = std::atomic<uint64_t>;
  Count bytes_landed{0}, pieces_landed{0}, pieces_refused{0}, checksum_mismatches{0}, malformed_frames{0},
      handshakes_refused{0}, stale_incarnations{0}, unknown_answers{0}, peers_lost{0}, lanes_tested_again{0},
      lanes_failed{0};
};

}  // namespace baton::transport
