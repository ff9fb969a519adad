#pragma once

#include <poll.h>

#include <atomic>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/rank_stream.h"

namespace baton {

// The connections of one rank to the others: sends and receives framed messages on all of them at once, so
// that two ranks with full buffers never wait for each other. The first failure is kept, told to the others
// as far as their connections take it, and ends every connection.
//
// Thread: one. Owns the sockets; spans are borrowed for the call.
class SocketExchange {
 public:
  // Part of every header: both ends must mean the same thing.
  enum class Word : uint32_t { kBarrier = 1, kReduce, kShare, kGather, kBroadcast, kMessage, kBroken };

  struct Outgoing {
    int peer;
    std::span<const std::byte> bytes;
  };
  struct Incoming {
    int peer;
    std::span<std::byte> bytes;
  };

  SocketExchange(int rank, std::vector<RankStream> streams, Duration spin);

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(streams_.size()); }
  bool has_tls() const;

  // Sends all of `out` and receives all of `in`, at most one of each for a peer.
  absl::Status run(Word word, std::span<const Outgoing> out, std::span<const Incoming> in, Instant deadline);
  // OK unless broken, or a connection is seen to be closed; looks at most every 50 ms, or now.
  absl::Status check();
  absl::Status check_now();
  // From any thread: ends the connections, since `culprit` did not come.
  void interrupt(int culprit);
  int culprit() const { return culprit_; }  // -1 unless broken

 private:
  struct Header {
    uint32_t word;
    uint32_t culprit;  // of kBroken; else 0
    uint64_t bytes;    // of kBroken: why
  };
  // A message on its way in one direction; `done` counts header and bytes. What is sent is with the kernel
  // when it has `left`: under TLS it may wait, encrypted, for room.
  struct Sending {
    Outgoing message;
    Header header;
    size_t done = 0;
    bool left = false;
    bool taken() const { return done == sizeof(Header) + message.bytes.size(); }
    bool finished() const { return left; }
  };
  struct Receiving {
    Incoming message;
    Header header{};
    size_t done = 0;
    bool finished() const { return done == sizeof(Header) + message.bytes.size(); }
  };
  enum class Why : uint64_t { kGone, kLate, kDisagree };

  absl::StatusOr<bool> advance(Sending& s);
  absl::StatusOr<bool> advance(Receiving& r);
  absl::Status check_header(const Receiving& r);
  absl::Status advance_all(bool& moved, bool& finished);
  absl::StatusOr<Duration> wait(Instant deadline);
  // Peers that this operation needs nothing more from, and that closed: did they say the group is broken?
  absl::Status look_at_closed(std::span<const pollfd> entries);
  int awaited() const;
  absl::Status fail(int culprit, Why why, std::string_view how);
  // The peer's connection is closed: fails with the reason it left behind whatever else it sent, if any.
  absl::Status closed(int peer, std::string_view how);
  // The reason at the end of what a rank sent, when it gave one.
  std::optional<Header> last_words(std::string_view bytes) const;
  absl::Status follow(const Header& last, int finder);
  void tell_others(int culprit, Why why);

  int rank_;
  std::vector<RankStream> streams_;
  Duration spin_;
  SteadyClock clock_;
  Instant next_look_{};
  absl::Status broken_;
  int culprit_ = -1;
  std::atomic<int> interrupted_ = -1;  // the culprit
  uint32_t word_ = 0;
  std::vector<bool> left_;  // peers that closed without a word
  std::vector<Sending> sending_;
  std::vector<Receiving> receiving_;
};

}  // namespace baton
