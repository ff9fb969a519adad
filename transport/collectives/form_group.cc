#include "transport/collectives/form_group.h"

#include <poll.h>
#include <sched.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "base/cat.h"
#include "base/log.h"
#include "transport/collectives/group_door.h"
#include "transport/collectives/self_communicator.h"
#include "transport/collectives/shm_communicator.h"
#include "transport/collectives/socket_communicator.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr Duration kSpin = 50us;
constexpr Duration kAgain = 20ms;
constexpr Duration kSlice = 50ms;       // between two looks at who may have left meanwhile
constexpr Duration kIntroduction = 2s;  // who connects says at once who it is; a stranger may say nothing
constexpr Duration kConnectSlice = 1s;  // of one attempt to reach a rank that may have left

// Spinning helps only where every rank of this host has a core.
Duration spin_of(const GroupOptions& o, int ranks_here) {
  if (o.spin >= Duration::zero()) return o.spin;
  cpu_set_t cores;
  if (::sched_getaffinity(0, sizeof cores, &cores) != 0) return kSpin;
  // A rank that is pinned to one core has it to itself; otherwise all ranks share those that it may use.
  const int mine = CPU_COUNT(&cores);
  return mine == 1 || mine >= ranks_here ? kSpin : Duration::zero();
}

bool is_unix(const std::string& address) { return address.starts_with("unix:"); }

// --- Waiting for ranks that may die meanwhile

bool hung_up(int fd) {
  pollfd entry{.fd = fd, .events = POLLRDHUP, .revents = 0};
  return ::poll(&entry, 1, 0) > 0;
}

absl::Status one_left() { return absl::UnavailableError("a rank left while the group formed"); }

absl::Status whole(const GroupOptions& o) {
  return o.within == nullptr ? absl::OkStatus() : o.within->alive();
}

// Until somebody is at the listener; kUnavailable when one of `ranks` (connections) leaves meanwhile.
absl::Status wait_at(const OwnedFd& listener, std::span<const int> ranks, const GroupOptions& o) {
  for (;;) {
    absl::Status came = wait_for(listener.get(), POLLIN, std::min(o.deadline, SteadyClock().now() + kSlice));
    if (!absl::IsDeadlineExceeded(came)) return came;
    if (std::ranges::any_of(ranks, hung_up)) return one_left();
    RETURN_IF_ERROR(whole(o));
    if (SteadyClock().now() >= o.deadline) return came;
  }
}

// Whether it is worth to go on waiting for a rank that `zero` has told of: rank 0 is there itself (-1: it is
// rank 0 that is waited for). `waited`: what the wait came to.
absl::Status go_on(const absl::Status& waited, int zero, const GroupOptions& o) {
  if (!absl::IsDeadlineExceeded(waited)) return waited;
  if (zero >= 0 && hung_up(zero)) return one_left();
  RETURN_IF_ERROR(whole(o));
  return SteadyClock().now() >= o.deadline ? waited : absl::OkStatus();
}

absl::Status meet(RankStream& stream, int zero, const GroupOptions& o) {
  for (;;) {
    ASSIGN_OR_RETURN(const bool met, stream.meet());
    if (met) return absl::OkStatus();
    RETURN_IF_ERROR(go_on(
        wait_for(stream.fd(), stream.awaited_events(), std::min(o.deadline, SteadyClock().now() + kSlice)),
        zero, o));
  }
}

// Connects to a rank, and under TLS each knows the other when this returns.
absl::StatusOr<RankStream> reach(const std::string& address, int zero, const GroupOptions& o) {
  for (;;) {
    absl::StatusOr<OwnedFd> fd =
        connect_to(address, std::min(o.deadline, SteadyClock().now() + kConnectSlice));
    if (!fd.ok()) {
      RETURN_IF_ERROR(go_on(fd.status(), zero, o));
      continue;
    }
    RankStream stream(*std::move(fd), is_unix(address) ? nullptr : o.tls, RankStream::Side::kConnects);
    const absl::Status met = meet(stream, zero, o);
    if (met.ok()) return stream;
    return absl::Status(met.code(), cat("rank ", o.rank, " of group ", o.group, " has called ", address, ": ",
                                        met.message()));
  }
}

// What a caller says first; an error when it says nothing of use: it is forgotten.
absl::StatusOr<GroupFrame> introduction(RankStream& caller, const GroupOptions& o) {
  absl::StatusOr<GroupFrame> words =
      GroupFrame::read(caller, std::min(o.deadline, SteadyClock().now() + kIntroduction));
  if (!words.ok())
    log_warn("a caller is refused", {{"group", o.group}, {"why", std::string(words.status().message())}});
  return words;
}

// All ranks of it are there, and have met once.
absl::StatusOr<std::unique_ptr<Communicator>> met(const GroupOptions& o, std::unique_ptr<Communicator> made) {
  RETURN_IF_ERROR(made->barrier(o.deadline));
  return made;
}

// --- Shared memory

absl::StatusOr<ShmSeat> seat_of(const GroupOptions& o, std::shared_ptr<ShmRegion> region, OwnedFd own_line,
                                std::vector<OwnedFd> lines) {
  lines[o.rank].reset();
  return ShmSeat{.rank = o.rank,
                 .region = std::move(region),
                 .own_line = std::move(own_line),
                 .lines = std::move(lines),
                 .spin = spin_of(o, o.size)};
}

// One rank's visit at rank 0's Unix listener: it proves that it belongs here and leaves its life line.
absl::Status take_line(const GroupOptions& o, const std::string& token, RankStream visitor,
                       std::vector<RankStream>& visitors, std::vector<OwnedFd>& lines) {
  const absl::StatusOr<GroupFrame> frame = introduction(visitor, o);
  int rank = 0;
  const auto words = frame.ok() ? frame->words() : std::vector<std::string>();
  if (words.size() != 2 || words[0] != token || !absl::SimpleAtoi(words[1], &rank) || rank < 1 ||
      rank >= o.size || visitors[rank].valid())
    return absl::OkStatus();  // not one of us: forgotten
  ASSIGN_OR_RETURN(std::vector<OwnedFd> line, receive_descriptors(visitor.fd(), 1, o.deadline));
  lines[rank] = std::move(line[0]);
  visitors[rank] = std::move(visitor);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Communicator>> share_memory(const GroupOptions& o,
                                                           std::vector<GroupGuest>& guests) {
  ASSIGN_OR_RETURN(const std::string token, group_token());
  const std::string address = cat("unix:@baton-group-", token);
  ASSIGN_OR_RETURN(const OwnedFd listener, listen_at(address));
  ASSIGN_OR_RETURN(std::shared_ptr<ShmRegion> region, ShmRegion::create(o.size));
  ASSIGN_OR_RETURN(LifeLine own, LifeLine::make());
  for (int r = 1; r < o.size; ++r)
    RETURN_IF_ERROR(GroupFrame({"shm", cat(o.incarnation.value()), token, address})
                        .write(guests[r].connection, o.deadline));
  std::vector<RankStream> visitors(o.size);
  std::vector<OwnedFd> lines(o.size);
  std::vector<int> ranks;
  for (int r = 1; r < o.size; ++r) ranks.push_back(guests[r].connection.fd());
  lines[0] = std::move(own.watched);
  while (std::any_of(visitors.begin() + 1, visitors.end(), [](const RankStream& v) { return !v.valid(); })) {
    RETURN_IF_ERROR(wait_at(listener, ranks, o));
    ASSIGN_OR_RETURN(OwnedFd visitor, accept_now(listener.get()));
    if (visitor.valid())
      RETURN_IF_ERROR(take_line(o, token, RankStream(std::move(visitor)), visitors, lines));
  }
  std::vector<int> descriptors{region->fd()};
  for (const OwnedFd& line : lines) descriptors.push_back(line.get());
  for (int r = 1; r < o.size; ++r)
    RETURN_IF_ERROR(send_descriptors(visitors[r].fd(), descriptors, o.deadline));
  ASSIGN_OR_RETURN(ShmSeat seat, seat_of(o, std::move(region), std::move(own.held), std::move(lines)));
  return met(o, shm_communicator(std::move(seat)));
}

absl::StatusOr<std::unique_ptr<Communicator>> map_memory(const GroupOptions& o, const RankStream& to_zero,
                                                         const std::vector<std::string>& words) {
  if (words.size() != 4) return absl::InternalError("rank 0's answer has another form");
  ASSIGN_OR_RETURN(RankStream visit, reach(words[3], to_zero.fd(), o));
  ASSIGN_OR_RETURN(LifeLine own, LifeLine::make());
  RETURN_IF_ERROR(GroupFrame({words[2], cat(o.rank)}).write(visit, o.deadline));
  const int line = own.watched.get();
  RETURN_IF_ERROR(send_descriptors(visit.fd(), {&line, 1}, o.deadline));
  ASSIGN_OR_RETURN(std::vector<OwnedFd> got, receive_descriptors(visit.fd(), size_t{1} + o.size, o.deadline));
  ASSIGN_OR_RETURN(std::shared_ptr<ShmRegion> region, ShmRegion::map(std::move(got[0]), o.size));
  got.erase(got.begin());
  ASSIGN_OR_RETURN(ShmSeat seat, seat_of(o, std::move(region), std::move(own.held), std::move(got)));
  return met(o, shm_communicator(std::move(seat)));
}

// --- Sockets: a rank connects to all below it; the connection to rank 0 is the one it came by

absl::StatusOr<std::unique_ptr<Communicator>> join(const GroupOptions& o, std::vector<RankStream> streams) {
  std::vector<int> sockets;
  for (const RankStream& stream : streams)
    if (stream.valid()) sockets.push_back(stream.fd());
  ASSIGN_OR_RETURN(auto made, met(o, socket_communicator(o.rank, std::move(streams), spin_of(o, 1))));
  for (const int socket : sockets) let_it_compute(socket, o.patience);
  return made;
}

absl::StatusOr<std::unique_ptr<Communicator>> tell_addresses(const GroupOptions& o,
                                                             std::vector<GroupGuest> guests) {
  ASSIGN_OR_RETURN(const std::string token, group_token());
  std::vector<std::string> words{"socket", cat(o.incarnation.value()), token};
  for (const GroupGuest& g : guests) words.push_back(g.listens);
  std::vector<RankStream> streams(o.size);
  for (int r = 1; r < o.size; ++r) {
    RETURN_IF_ERROR(GroupFrame(words).write(guests[r].connection, o.deadline));
    streams[r] = std::move(guests[r].connection);
  }
  return join(o, std::move(streams));
}

void take_caller(const GroupOptions& o, const std::string& token, RankStream caller,
                 std::vector<RankStream>& streams) {
  const absl::StatusOr<GroupFrame> frame = introduction(caller, o);
  int rank = 0;
  if (frame.ok() && frame->words().size() == 2 && frame->words()[0] == token &&
      absl::SimpleAtoi(frame->words()[1], &rank) && rank > o.rank && rank < o.size && !streams[rank].valid())
    streams[rank] = std::move(caller);  // else a stranger: it is forgotten
}

absl::StatusOr<std::unique_ptr<Communicator>> connect_pairs(const GroupOptions& o, RankStream to_zero,
                                                            const OwnedFd& listener,
                                                            const std::vector<std::string>& words) {
  constexpr size_t kAddresses = 3;
  if (words.size() != kAddresses + o.size) return absl::InternalError("rank 0's answer has another form");
  std::vector<RankStream> streams(o.size);
  const int zero = to_zero.fd();
  streams[0] = std::move(to_zero);
  for (int r = 1; r < o.rank; ++r) {
    ASSIGN_OR_RETURN(streams[r], reach(words[kAddresses + r], zero, o));
    RETURN_IF_ERROR(GroupFrame({words[2], cat(o.rank)}).write(streams[r], o.deadline));
  }
  for (;;) {
    if (std::all_of(streams.begin() + o.rank + 1, streams.end(), [](const auto& s) { return s.valid(); }))
      return join(o, std::move(streams));
    RETURN_IF_ERROR(wait_at(listener, {&zero, 1}, o));
    ASSIGN_OR_RETURN(OwnedFd caller, accept_now(listener.get()));
    if (!caller.valid()) continue;
    take_caller(o, words[2], RankStream(std::move(caller), o.tls, RankStream::Side::kAccepts), streams);
  }
}

// --- The two sides

absl::StatusOr<bool> use_memory(const GroupOptions& o, const std::vector<GroupGuest>& guests) {
  const std::string here = group_host_id();
  const bool one_host = !here.empty() && std::all_of(guests.begin() + 1, guests.end(),
                                                     [&](const GroupGuest& g) { return g.host == here; });
  if (o.lane == GroupLane::kShm && !one_host)
    return absl::FailedPreconditionError("shared memory is asked for, but the ranks are on several hosts");
  const bool memory = o.lane != GroupLane::kSocket && one_host;
  if (!memory && is_unix(o.rendezvous))
    return absl::FailedPreconditionError("sockets between ranks need a rendezvous with host:port");
  return memory;
}

absl::StatusOr<Group> receive_ranks(const GroupOptions& o, const OwnedFd& listener) {
  GroupDoor door(o, listener);
  ASSIGN_OR_RETURN(std::vector<GroupGuest> guests, door.wait());
  const absl::StatusOr<bool> memory = use_memory(o, guests);
  if (!memory.ok()) {
    for (int r = 1; r < o.size; ++r)
      GroupFrame({"refused", std::string(memory.status().message())})
          .write(guests[r].connection, o.deadline)
          .IgnoreError();
    return memory.status();
  }
  Group group{.incarnation = o.incarnation};
  if (!is_unix(o.rendezvous)) group.host = local_host(guests[1].connection.fd());
  ASSIGN_OR_RETURN(group.communicator,
                   *memory ? share_memory(o, guests) : tell_addresses(o, std::move(guests)));
  return group;
}

absl::StatusOr<Group> visit_rank_0(const GroupOptions& o) {
  ASSIGN_OR_RETURN(RankStream to_zero, reach(o.rendezvous, -1, o));
  OwnedFd listener;
  int port = 0;
  if (!is_unix(o.rendezvous)) {
    ASSIGN_OR_RETURN(listener, listen_at(host_and_port(local_host(to_zero.fd()), 0)));
    port = local_port(listener.get());
  }
  RETURN_IF_ERROR(group_hello(o, port).write(to_zero, o.deadline));
  ASSIGN_OR_RETURN(const GroupFrame answer, GroupFrame::read(to_zero, o.deadline));
  const std::vector<std::string>& words = answer.words();
  if (words.size() == 2 && words[0] == "refused")
    return absl::FailedPreconditionError(
        cat("rank ", o.rank, " of group ", o.group, " is refused by rank 0: ", words[1]));
  uint64_t incarnation = 0;
  if (words.size() < 3 || !absl::SimpleAtoi(words[1], &incarnation))
    return absl::InternalError("rank 0's answer has another form");
  Group group{.incarnation = Incarnation(incarnation)};
  if (!is_unix(o.rendezvous)) group.host = local_host(to_zero.fd());
  ASSIGN_OR_RETURN(group.communicator, words[0] == "shm"
                                           ? map_memory(o, to_zero, words)
                                           : connect_pairs(o, std::move(to_zero), listener, words));
  return group;
}

// kUnavailable: somebody left.
absl::StatusOr<Group> form_once(const GroupOptions& o, const OwnedFd& listener) {
  return o.rank == 0 ? receive_ranks(o, listener) : visit_rank_0(o);
}

}  // namespace

absl::StatusOr<Group> form_group(const GroupOptions& options) {
  GroupOptions o = options;
  if (is_unix(o.rendezvous)) o.tls = nullptr;  // the kernel says who calls
  if (o.size < 1 || o.size > ShmRegion::kMostRanks - 1 || o.rank < 0 || o.rank >= o.size)
    return absl::InvalidArgumentError(cat("rank ", o.rank, " of ", o.size, ": want 0 <= rank < size < 64"));
  if (o.size == 1) return Group{.communicator = self_communicator(), .incarnation = o.incarnation};
  OwnedFd own;
  if (o.rank == 0 && o.listener == nullptr) {
    ASSIGN_OR_RETURN(own, listen_at(o.rendezvous));
  }
  for (;;) {
    absl::StatusOr<Group> group = form_once(o, o.listener != nullptr ? *o.listener : own);
    if (group.ok() || !absl::IsUnavailable(group.status())) return group;
    RETURN_IF_ERROR(whole(o));
    if (SteadyClock().now() + kAgain >= o.deadline) return group;
    ::poll(nullptr, 0, static_cast<int>(kAgain / 1ms));  // who left may come again
  }
}

}  // namespace baton
