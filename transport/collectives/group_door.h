#pragma once

#include <poll.h>

#include <optional>
#include <string>
#include <vector>

#include "transport/collectives/form_group.h"
#include "transport/collectives/group_frame.h"
#include "transport/collectives/rank_stream.h"

namespace baton {

// One rank that came to rank 0: what it said about itself and its connection.
struct GroupGuest {
  RankStream connection;
  std::string host;     // group_host_id() of its process
  std::string listens;  // host:port for ranks above it, or empty
};

// Rank 0's side of the rendezvous: lets in each other rank once, refuses what does not fit with the reason.
// Who has TLS while this rank has not, or the reverse, is told so in plain words. Who does not say within 5 s
// who it is, is forgotten. Thread: one. Owns the connections, borrows the listener.
class GroupDoor {
 public:
  GroupDoor(const GroupOptions& options, const OwnedFd& listener)
      : options_(options), listener_(listener), guests_(options.size) {}

  // All other ranks, by rank (own place empty); at the deadline an error that names who is missing.
  absl::StatusOr<std::vector<GroupGuest>> wait();

 private:
  struct Stranger {
    OwnedFd socket;     // until the first bytes have shown whether it speaks TLS
    RankStream stream;  // then
    Instant until;
    std::string bytes;
    int fd() const { return stream.valid() ? stream.fd() : socket.get(); }
  };

  absl::Status let_in();
  // True when the connection is settled: a guest now, refused, or gone.
  bool hear(Stranger& stranger);
  bool open(Stranger& stranger);
  bool introduce(Stranger& stranger);
  void refuse(Stranger& stranger, const std::string& why);
  // Empty, or why this hello does not fit.
  std::string mistake(const std::vector<std::string>& hello, int& rank) const;
  void forget_the_gone();
  absl::Status missing() const;
  bool complete() const;

  const GroupOptions& options_;
  const OwnedFd& listener_;
  std::vector<Stranger> strangers_;
  std::vector<std::optional<GroupGuest>> guests_;
  std::string last_refusal_;
};

// The first words of every rank, and how many there are.
inline constexpr std::string_view kGroupProtocol = "baton-group/1";
GroupFrame group_hello(const GroupOptions& options, int listening_port);
// Equal for two processes exactly when they can meet on an abstract Unix socket and share memory passed over
// it: the kernel's boot id and the network namespace. Empty when the system does not tell.
std::string group_host_id();
// Random words that only those know who are told: the proof on connections made later.
absl::StatusOr<std::string> group_token();
const char* lane_word(GroupLane lane);

}  // namespace baton
