#include "transport/collectives/group_door.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>

#include "absl/strings/numbers.h"
#include "base/cat.h"
#include "base/log.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMostStrangers = 256;
constexpr Duration kSlice = 50ms;
constexpr Duration kStranger = 5s;  // a rank says at once who it is

enum Hello { kProtocol, kGroupName, kBuild, kIncarnation, kRank, kSize, kLane, kHost, kPort, kHelloWords };

bool closed(int fd) {
  char byte = 0;
  const ssize_t n = ::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

// A TLS record begins with 22, its version, whose second byte is 1 or more; a frame of a group with its
// length, whose third byte is 0.
bool begins_tls(std::span<const uint8_t> first) {
  return first[0] == 22 && (first.size() < 3 || first[2] != 0);
}

std::string differs(std::string_view what, std::string_view want, std::string_view got) {
  return want == got ? "" : cat(what, " differs: rank 0 has ", want, ", you have ", got);
}

}  // namespace

const char* lane_word(GroupLane lane) {
  switch (lane) {
    case GroupLane::kAuto:
      return "auto";
    case GroupLane::kShm:
      return "shm";
    case GroupLane::kSocket:
      break;
  }
  return "socket";
}

std::string group_host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  if (!std::getline(file, boot) || boot.empty()) return "";
  char name[128];
  const ssize_t n = ::readlink("/proc/thread-self/ns/net", name, sizeof name);
  return n <= 0 ? "" : cat(boot, "/", std::string_view(name, static_cast<size_t>(n)));
}

absl::StatusOr<std::string> group_token() {
  uint8_t bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return absl::InternalError("no random bytes");
  std::string text;
  for (const uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

GroupFrame group_hello(const GroupOptions& o, int listening_port) {
  std::vector<std::string> words(kHelloWords);
  words[kProtocol] = kGroupProtocol;
  words[kGroupName] = o.group;
  words[kBuild] = o.build;
  words[kIncarnation] = cat(o.incarnation.value());
  words[kRank] = cat(o.rank);
  words[kSize] = cat(o.size);
  words[kLane] = lane_word(o.lane);
  words[kHost] = group_host_id();
  words[kPort] = cat(listening_port);
  return GroupFrame(std::move(words));
}

absl::StatusOr<std::vector<GroupGuest>> GroupDoor::wait() {
  const SteadyClock clock;
  while (!complete()) {
    const Duration left = options_.deadline - clock.now();
    if (left <= Duration::zero()) return missing();
    if (options_.within != nullptr) RETURN_IF_ERROR(options_.within->alive());
    std::vector<pollfd> entries{{.fd = listener_.get(), .events = POLLIN, .revents = 0}};
    for (const Stranger& s : strangers_)
      entries.push_back({.fd = s.fd(), .events = s.stream.awaited_events(), .revents = 0});
    ::poll(entries.data(), entries.size(),
           static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(std::min(left, kSlice)).count()));
    forget_the_gone();  // first: a rank that was started again finds its place free
    RETURN_IF_ERROR(let_in());
    std::erase_if(strangers_, [this](Stranger& s) { return hear(s); });
  }
  std::vector<GroupGuest> all(options_.size);
  for (int r = 1; r < options_.size; ++r) all[r] = *std::move(guests_[r]);
  return all;
}

absl::Status GroupDoor::let_in() {
  for (;;) {
    ASSIGN_OR_RETURN(OwnedFd connection, accept_now(listener_.get()));
    if (!connection.valid()) return absl::OkStatus();
    if (strangers_.size() < kMostStrangers)
      strangers_.push_back({.socket = std::move(connection), .until = SteadyClock().now() + kStranger});
  }
}

bool GroupDoor::hear(Stranger& s) {
  const bool settled = s.stream.valid() ? introduce(s) : open(s);
  if (settled || SteadyClock().now() < s.until) return settled;
  refuse(s, cat("a caller has not said who it is in ", kStranger / 1s, " s"));
  return true;
}

// The first bytes show whether the caller speaks TLS: if not as this rank does, both are told.
bool GroupDoor::open(Stranger& s) {
  uint8_t first[3];
  const ssize_t n = ::recv(s.fd(), first, sizeof first, MSG_PEEK | MSG_DONTWAIT);
  if (n == 0) return true;
  if (n < 0) return errno != EAGAIN && errno != EINTR;
  const bool tls = begins_tls(std::span(first, static_cast<size_t>(n)));
  s.stream = RankStream(std::move(s.socket), tls ? options_.tls : nullptr, RankStream::Side::kAccepts);
  if (tls == (options_.tls != nullptr)) return introduce(s);
  refuse(s, cat(tls ? "the caller talks under TLS, and rank 0 does not: "
                    : "rank 0 talks under TLS (control.tls), and the caller does not: ",
                kSameTls));
  return true;
}

bool GroupDoor::introduce(Stranger& s) {
  char bytes[4096];
  const std::array<iovec, 1> room{iovec{bytes, sizeof bytes}};
  const absl::StatusOr<size_t> n = s.stream.receive_now(room);
  if (!n.ok() && absl::IsFailedPrecondition(n.status())) refuse(s, std::string(n.status().message()));
  if (!n.ok()) return true;
  if (*n == 0) return false;
  s.bytes.append(bytes, *n);
  GroupFrame frame;
  const absl::StatusOr<bool> whole = GroupFrame::take(s.bytes, frame);
  if (!whole.ok()) {
    refuse(s, std::string(whole.status().message()));
    return true;
  }
  if (!*whole) return false;
  int rank = 0;
  if (const std::string why = mistake(frame.words(), rank); !why.empty()) {
    refuse(s, why);
    return true;
  }
  GroupGuest guest{.host = frame.words()[kHost]};
  if (int port = 0; absl::SimpleAtoi(frame.words()[kPort], &port) && port > 0)
    guest.listens = host_and_port(peer_host(s.fd()), port);
  guest.connection = std::move(s.stream);
  guests_[rank] = std::move(guest);
  return true;
}

void GroupDoor::refuse(Stranger& s, const std::string& why) {
  last_refusal_ = why;
  log_warn("a rank is refused", {{"group", options_.group}, {"why", why}});
  // Best effort: it learns from the closed connection otherwise, or from TLS.
  const absl::StatusOr<bool> met = s.stream.valid() ? s.stream.meet() : absl::StatusOr<bool>(false);
  if (!met.ok() || !*met) return;
  char unread[4096];  // else the kernel would cut the connection, and our words with it
  (void)::recv(s.fd(), unread, sizeof unread, MSG_DONTWAIT);
  GroupFrame({"refused", why}).write(s.stream, SteadyClock().now() + 100ms).IgnoreError();
}

std::string GroupDoor::mistake(const std::vector<std::string>& hello, int& rank) const {
  if (hello.empty() || hello[kProtocol] != kGroupProtocol || hello.size() != kHelloWords)
    return cat("the protocol differs: rank 0 has ", kGroupProtocol);
  const auto check = {differs("the group", options_.group, hello[kGroupName]),
                      differs("the build", options_.build, hello[kBuild]),
                      differs("the number of ranks", cat(options_.size), hello[kSize]),
                      differs("the lane asked for", lane_word(options_.lane), hello[kLane])};
  for (const std::string& why : check)
    if (!why.empty()) return why;
  if (hello[kIncarnation] != "0" && hello[kIncarnation] != cat(options_.incarnation.value()))
    return differs("the incarnation", cat(options_.incarnation.value()), hello[kIncarnation]);
  if (!absl::SimpleAtoi(hello[kRank], &rank) || rank < 1 || rank >= options_.size)
    return cat("rank ", hello[kRank], " is not one of 1 to ", options_.size - 1);
  if (guests_[rank]) return cat("rank ", rank, " is here already");
  return "";
}

void GroupDoor::forget_the_gone() {
  for (auto& guest : guests_)
    if (guest && closed(guest->connection.fd())) guest.reset();
}

bool GroupDoor::complete() const {
  return std::all_of(guests_.begin() + 1, guests_.end(), [](const auto& g) { return g.has_value(); });
}

absl::Status GroupDoor::missing() const {
  std::string names;
  for (int r = 1; r < options_.size; ++r)
    if (!guests_[r]) names += cat(names.empty() ? "" : ", ", r);
  return absl::DeadlineExceededError(
      cat("group ", options_.group, ": no word from rank ", names, " before the deadline",
          last_refusal_.empty() ? "" : cat("; refused meanwhile: ", last_refusal_)));
}

}  // namespace baton
