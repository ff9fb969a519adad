#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/life_line.h"

namespace baton {

// Stream sockets with a deadline on everything, as the forming of a group needs them. Addresses are
// "host:port" ("[::1]:7000" for IPv6; port 0 when listening takes a free one) or "unix:@name", a name in the
// abstract space of this network namespace, which leaves no file. Every socket is non-blocking, closed on
// exec, and TCP ones send small messages at once and find a dead network in about 2 s: what was sent has not
// been acknowledged for so long, or an idle connection's probes. Thread: any.
absl::StatusOr<OwnedFd> listen_at(const std::string& address);
// Tries again until `deadline` while nobody listens there.
absl::StatusOr<OwnedFd> connect_to(const std::string& address, Instant deadline);
// A connection that waits at the listener; an invalid descriptor when there is none. On a Unix listener only
// processes of the same user are let in.
absl::StatusOr<OwnedFd> accept_now(int listener);

// From now on the peer may compute for so long without reading: the kernel takes a window that stays full for
// a dead network, and finds one of those no sooner either.
void let_it_compute(int fd, Duration patience);

// Until one of `events` (poll.h) is there.
absl::Status wait_for(int fd, short events, Instant deadline);

// Passes open descriptors to the process at the other end of a Unix socket.
absl::Status send_descriptors(int fd, std::span<const int> descriptors, Instant deadline);
absl::StatusOr<std::vector<OwnedFd>> receive_descriptors(int fd, size_t count, Instant deadline);

// "10.0.0.2" and so on: the two ends of a TCP connection, and where a listener listens.
std::string peer_host(int fd);
std::string local_host(int fd);
int local_port(int fd);
std::string host_and_port(const std::string& host, int port);  // IPv6 gets its brackets

}  // namespace baton
