#include "transport/collectives/stream_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "base/cat.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

constexpr Duration kRetry = 20ms;        // between two attempts to connect
constexpr int kNetworkDeadMs = 2000;     // unacknowledged for so long: the connection ends
constexpr size_t kMostDescriptors = 64;  // in one message

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = 0;
  int family = AF_UNSPEC;
};

absl::Status failed(std::string_view what) {
  const int error = errno;
  return absl::UnavailableError(cat(what, ": ", std::strerror(error)));
}

absl::StatusOr<Address> unix_address(std::string_view name) {
  Address address{.family = AF_UNIX};
  auto* un = reinterpret_cast<sockaddr_un*>(&address.bytes);
  if (name.size() < 2 || name[0] != '@' || name.size() > sizeof un->sun_path)
    return absl::InvalidArgumentError(cat("want unix:@name, got unix:", name));
  un->sun_family = AF_UNIX;
  std::memcpy(un->sun_path + 1, name.data() + 1, name.size() - 1);  // a leading zero: the abstract space
  address.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  return address;
}

absl::StatusOr<Address> resolve(const std::string& text) {
  constexpr std::string_view kUnix = "unix:";
  if (text.starts_with(kUnix)) return unix_address(std::string_view(text).substr(kUnix.size()));
  const size_t colon = text.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 ||
      port > 65535)
    return absl::InvalidArgumentError(cat("want host:port or unix:@name, got ", text));
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0)
    return absl::UnavailableError(cat("address of ", host, ": ", ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Address address{.size = found->ai_addrlen, .family = found->ai_family};
  std::memcpy(&address.bytes, found->ai_addr, found->ai_addrlen);
  return address;
}

void set_option(int fd, int level, int option, int value) {
  ::setsockopt(fd, level, option, &value, sizeof value);
}

void tune(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, kNetworkDeadMs);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
}

absl::StatusOr<OwnedFd> open_socket(int family) {
  OwnedFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return failed("socket");
  if (family != AF_UNIX) tune(fd.get());
  return fd;
}

// One attempt; errno-like errors are kUnavailable and may be tried again.
absl::StatusOr<OwnedFd> connect_once(const Address& address, Instant deadline) {
  ASSIGN_OR_RETURN(OwnedFd fd, open_socket(address.family));
  const auto* to = reinterpret_cast<const sockaddr*>(&address.bytes);
  if (::connect(fd.get(), to, address.size) == 0) return fd;
  if (errno != EINPROGRESS) return failed("connect");
  RETURN_IF_ERROR(wait_for(fd.get(), POLLOUT, deadline));
  socklen_t size = sizeof errno;
  int error = 0;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  errno = error;
  if (error != 0) return failed("connect");
  return fd;
}

bool same_user(int fd) {
  ucred who{};
  socklen_t size = sizeof who;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == ::geteuid();
}

std::string host_of(const sockaddr_storage& address, socklen_t size) {
  char host[NI_MAXHOST] = "";
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, nullptr, 0,
                NI_NUMERICHOST);
  return host;
}

sockaddr_storage end_of(int fd, int (*ask)(int, sockaddr*, socklen_t*), socklen_t& size) {
  sockaddr_storage address{};
  size = sizeof address;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) size = 0;
  return address;
}

}  // namespace

absl::StatusOr<OwnedFd> listen_at(const std::string& text) {
  ASSIGN_OR_RETURN(const Address address, resolve(text));
  ASSIGN_OR_RETURN(OwnedFd fd, open_socket(address.family));
  if (address.family != AF_UNIX) set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.bytes), address.size) != 0)
    return failed(cat("listen at ", text));
  if (::listen(fd.get(), 128) != 0) return failed(cat("listen at ", text));
  return fd;
}

absl::StatusOr<OwnedFd> connect_to(const std::string& text, Instant deadline) {
  const SteadyClock clock;
  for (;;) {
    absl::StatusOr<Address> address = resolve(text);
    if (!address.ok() && !absl::IsUnavailable(address.status())) return address.status();
    absl::StatusOr<OwnedFd> fd = address.ok() ? connect_once(*address, deadline) : address.status();
    if (fd.ok()) return fd;
    if (clock.now() + kRetry >= deadline)
      return absl::DeadlineExceededError(cat("nobody answers at ", text, ": ", fd.status().message()));
    ::poll(nullptr, 0, static_cast<int>(kRetry / 1ms));
  }
}

absl::StatusOr<OwnedFd> accept_now(int listener) {
  OwnedFd fd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) {
    // Out of descriptors is an error of ours; everything else is a caller who left again.
    if (errno == EMFILE || errno == ENFILE) return failed("accept");
    return OwnedFd();
  }
  sockaddr_storage own{};
  socklen_t size = 0;
  own = end_of(fd.get(), ::getsockname, size);
  if (own.ss_family != AF_UNIX) {
    tune(fd.get());
  } else if (!same_user(fd.get())) {
    return OwnedFd();
  }
  return fd;
}

void let_it_compute(int fd, Duration patience) {
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, std::max(kNetworkDeadMs, static_cast<int>(patience / 1ms)));
}

absl::Status wait_for(int fd, short events, Instant deadline) {
  const SteadyClock clock;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock.now());
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const int n = ::poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1000)));
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return failed("poll");
    if (left.count() <= 0) return absl::DeadlineExceededError("no answer before the deadline");
  }
}

absl::Status send_descriptors(int fd, std::span<const int> descriptors, Instant deadline) {
  if (descriptors.size() > kMostDescriptors) return absl::InvalidArgumentError("too many descriptors");
  std::byte space[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  char one = 1;
  iovec payload{.iov_base = &one, .iov_len = 1};
  msghdr message{};
  message.msg_iov = &payload;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* control = CMSG_FIRSTHDR(&message);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(control), descriptors.data(), descriptors.size_bytes());
  for (;;) {
    if (::sendmsg(fd, &message, MSG_NOSIGNAL) == 1) return absl::OkStatus();
    if (errno != EAGAIN && errno != EINTR) return failed("send descriptors");
    RETURN_IF_ERROR(wait_for(fd, POLLOUT, deadline));
  }
}

absl::StatusOr<std::vector<OwnedFd>> receive_descriptors(int fd, size_t count, Instant deadline) {
  std::byte space[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  char one = 0;
  iovec payload{.iov_base = &one, .iov_len = 1};
  msghdr message{};
  message.msg_iov = &payload;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  for (;;) {
    const ssize_t n = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    if (n == 1) break;
    if (n == 0) return absl::UnavailableError("the other side closed the connection");
    if (errno != EAGAIN && errno != EINTR) return failed("receive descriptors");
    RETURN_IF_ERROR(wait_for(fd, POLLIN, deadline));
  }
  std::vector<OwnedFd> got;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + CMSG_LEN(0) < c->cmsg_len; at += sizeof(int)) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(c) + at, sizeof descriptor);
      got.emplace_back(descriptor);
    }
  }
  if (got.size() != count) return absl::InternalError(cat("want ", count, " descriptors, got ", got.size()));
  return got;
}

std::string peer_host(int fd) {
  socklen_t size = 0;
  const sockaddr_storage address = end_of(fd, ::getpeername, size);
  return host_of(address, size);
}

std::string local_host(int fd) {
  socklen_t size = 0;
  const sockaddr_storage address = end_of(fd, ::getsockname, size);
  return host_of(address, size);
}

int local_port(int fd) {
  socklen_t size = 0;
  const sockaddr_storage address = end_of(fd, ::getsockname, size);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  return 0;
}

std::string host_and_port(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? cat(host, ":", port) : cat("[", host, "]:", port);
}

}  // namespace baton
