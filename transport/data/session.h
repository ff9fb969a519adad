#pragma once

#include <atomic>
#include <deque>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "transport/data/checksum.h"
#include "transport/data/framed_data_plane.h"
#include "transport/data/offer_landing.h"

// Private parts of FramedDataPlane, shared by its two sources.
namespace baton::transport {

inline constexpr size_t kLocalPieceBytes = 1 << 20;  // one copy holds the progress thread for ~0.1 ms
inline constexpr size_t kMaxPieceBytes = 64 << 20;   // nothing larger is ever believed
inline constexpr size_t kMaxPendingCopies = 4096;    // of one peer

inline bool run_fits(const PoolRun& run, size_t pool_bytes) {
  return run.bytes > 0 && run.offset % kPoolAlignment == 0 && run.bytes % kPoolAlignment == 0 &&
         run.offset <= pool_bytes && run.bytes <= pool_bytes - run.offset;
}

// How fast a peer takes what is offered to it: bytes answered over the time in which any were under way,
// smoothed. Starts from the test transfer of the handshake.
struct OfferRate {
  double bytes_per_second = 0;
  absl::flat_hash_map<uint64_t, uint64_t> under_way;  // cookie -> bytes
  Instant busy_since{};
  uint64_t busy_bytes = 0;

  void offered(uint64_t cookie, uint64_t bytes, Instant now) {
    if (under_way.empty()) {
      busy_since = now;
      busy_bytes = 0;
    }
    under_way[cookie] = bytes;
  }
  // False for an answer to nothing.
  bool answered(uint64_t cookie, Instant now) {
    const auto it = under_way.find(cookie);
    if (it == under_way.end()) return false;
    busy_bytes += it->second;
    under_way.erase(it);
    if (busy_bytes < kSampleBytes) return true;
    const double sample = static_cast<double>(busy_bytes) / std::max(to_seconds(now - busy_since), 1e-9);
    bytes_per_second += kWeight * (sample - bytes_per_second);
    busy_since = now;
    busy_bytes = 0;
    return true;
  }
  static constexpr uint64_t kSampleBytes = 1 << 20;
  static constexpr double kWeight = 0.2;
};

struct FramedDataPlane::Session {
  LinkId link = 0;
  bool outgoing = false;
  bool ended = false;
  bool refused = false;  // lingers until its refusal has left
  WorkerRef peer;        // expected, then verified; empty until an incoming hello
  std::unique_ptr<Handshake> handshake;
  Instant deadline = kNever;
  Instant pong_deadline = kNever;  // of a ready session that somebody wants to replace
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  std::deque<OfferFrame> copies;          // Lane::kLocal: offered, to be fetched
  std::unique_ptr<OfferLanding> landing;  // the offer whose payload is being read, lane `socket`
  OfferRate rate;

  bool ready() const { return handshake->state() == Handshake::State::kReady; }
  Lane lane() const { return handshake->lane(); }
};

// Written by the progress thread, read by any.
struct FramedDataPlane::Counters {
  using Count = std::atomic<uint64_t>;
  Count bytes_landed{0}, pieces_landed{0}, pieces_refused{0}, checksum_mismatches{0}, malformed_frames{0},
      handshakes_refused{0}, stale_incarnations{0}, unknown_answers{0}, peers_lost{0};
};

}  // namespace baton::transport
