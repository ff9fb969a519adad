#include "cli/bench/load/stream_client.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/cat.h"

namespace baton::load {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

std::string last_error() { return std::strerror(errno); }

std::string request_text(const StreamRequest& request, const std::string& fields) {
  return cat("POST ", request.path, " HTTP/1.1\r\n", fields,
             "Content-Type: application/json\r\nContent-Length: ", request.body.size(),
             request.keep_alive ? "\r\n\r\n" : "\r\nConnection: close\r\n\r\n", request.body);
}

absl::StatusOr<std::vector<char>> resolve(const std::string& host_port) {
  const size_t colon = host_port.rfind(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError(cat(host_port, ": want host:port"));
  std::string host = host_port.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int rc = ::getaddrinfo(host.c_str(), host_port.c_str() + colon + 1, &hints, &found); rc != 0)
    return absl::InvalidArgumentError(cat(host_port, ": ", ::gai_strerror(rc)));
  const char* bytes = reinterpret_cast<const char*>(found->ai_addr);
  std::vector<char> out(bytes, bytes + found->ai_addrlen);
  ::freeaddrinfo(found);
  return out;
}

}  // namespace

struct StreamClient::Connection {
  int fd = -1;
  bool busy = false;
  unsigned watched = 0;  // events that epoll reports
  StreamRequest request;
  std::string unsent;
  StreamReader reader;
  StreamRecord record;
  int tag = 0;

  ~Connection() {
    if (fd >= 0) ::close(fd);
  }
  void watch(int epoll, unsigned events) {
    if (watched == events) return;
    epoll_event e{.events = events, .data = {.ptr = this}};
    ::epoll_ctl(epoll, watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e);
    watched = events;
  }
};

absl::StatusOr<std::unique_ptr<StreamClient>> StreamClient::make(const std::string& host_port, Duration limit,
                                                                 const std::string& key) {
  auto endpoint = resolve(host_port);
  if (!endpoint.ok()) return endpoint.status();
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) return absl::InternalError(cat("epoll: ", last_error()));
  std::unique_ptr<StreamClient> client(new StreamClient(epoll, limit));
  client->fields_ = cat("Host: ", host_port, "\r\n");
  if (!key.empty()) client->fields_ += cat("Authorization: Bearer ", key, "\r\n");
  client->endpoint_ = *std::move(endpoint);
  return client;
}

StreamClient::StreamClient(int epoll, Duration limit) : epoll_(epoll), limit_(limit) {}

StreamClient::~StreamClient() {
  connections_.clear();
  ::close(epoll_);
}

absl::Status StreamClient::connect(Connection& connection) {
  const auto* address = reinterpret_cast<const sockaddr*>(endpoint_.data());
  connection.fd = ::socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (connection.fd < 0) return absl::UnavailableError(cat("socket: ", last_error()));
  const int yes = 1;
  ::setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (::connect(connection.fd, address, static_cast<socklen_t>(endpoint_.size())) != 0 &&
      errno != EINPROGRESS)
    return absl::UnavailableError(cat("connect: ", last_error()));
  return absl::OkStatus();
}

StreamClient::Connection* StreamClient::idle_connection() {
  const auto it = std::ranges::find_if(connections_, [](const auto& c) { return !c->busy && c->fd >= 0; });
  return it == connections_.end() ? nullptr : it->get();
}

void StreamClient::start(const StreamRequest& request, int tag) {
  Connection* c = request.keep_alive ? idle_connection() : nullptr;
  const bool fresh = c == nullptr;
  if (fresh) c = connections_.emplace_back(std::make_unique<Connection>()).get();
  c->request = request;
  c->unsent = request_text(request, fields_);
  c->reader = StreamReader(request.keep_events);
  c->tag = tag;
  c->busy = true;
  c->record = {};
  ++open_;
  c->record.sent = now();
  if (fresh) {
    if (const absl::Status s = connect(*c); !s.ok()) {
      c->record.error = std::string(s.message());
      return end(*c, false);
    }
    return c->watch(epoll_, EPOLLIN | EPOLLOUT);
  }
  write_some(*c);
}

std::vector<StreamClient::Ended> StreamClient::wait(Instant until) {
  std::array<epoll_event, 64> events;
  while (ended_.empty()) {
    const Instant at = now();
    if (at >= until) break;
    const Duration pause = std::min<Duration>(until - at, std::chrono::milliseconds(200));
    const timespec limit{.tv_sec = 0, .tv_nsec = pause.count()};
    const int n = ::epoll_pwait2(epoll_, events.data(), events.size(), &limit, nullptr);
    for (int i = 0; i < n; ++i) on_ready(*static_cast<Connection*>(events[i].data.ptr), events[i].events);
    if (n <= 0) end_overdue(now());
  }
  std::erase_if(connections_, [](const auto& c) { return c->fd < 0; });
  return std::exchange(ended_, {});
}

void StreamClient::on_ready(Connection& connection, unsigned events) {
  if (connection.fd < 0) return;
  if (!connection.busy) return end(connection, false);  // the server closed a connection at rest
  if (!connection.unsent.empty() && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) write_some(connection);
  if (connection.busy && (events & (EPOLLIN | EPOLLERR | EPOLLHUP))) read_some(connection);
}

void StreamClient::write_some(Connection& connection) {
  const ssize_t n = ::send(connection.fd, connection.unsent.data(), connection.unsent.size(), MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN && errno != EINTR) {
    connection.record.error = cat("send: ", last_error());
    return end(connection, false);
  }
  connection.unsent.erase(0, static_cast<size_t>(std::max<ssize_t>(n, 0)));
  connection.watch(epoll_, connection.unsent.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void StreamClient::read_some(Connection& connection) {
  std::array<char, 16384> buffer;
  const ssize_t n = ::recv(connection.fd, buffer.data(), buffer.size(), 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    if (n < 0) connection.record.error = cat("recv: ", last_error());
    connection.reader.end_of_input(connection.record);
  } else {
    connection.reader.feed({buffer.data(), static_cast<size_t>(n)}, now(), connection.record);
  }
  after_bytes(connection);
}

void StreamClient::after_bytes(Connection& connection) {
  const StreamRequest& request = connection.request;
  StreamRecord& record = connection.record;
  if (request.drop_after > 0 && record.tokens_seen() >= request.drop_after) {
    record.dropped = true;
    return end(connection, false);
  }
  if (!connection.reader.done()) return;
  const auto differs = [](int want, int got) { return want > 0 && want != got; };
  if (record.error.empty() && (differs(request.prompt_tokens, record.prompt_tokens) ||
                               differs(request.output_tokens, record.output_tokens)))
    record.error = cat("the server counted ", record.prompt_tokens, " tokens in and ", record.output_tokens,
                       " out, want ", request.prompt_tokens, " and ", request.output_tokens);
  end(connection, request.keep_alive && connection.reader.keep_alive());
}

void StreamClient::end(Connection& connection, bool reusable) {
  if (connection.busy) {
    connection.busy = false;
    connection.record.ended = now();
    --open_;
    ended_.push_back({connection.tag, std::move(connection.record)});
  }
  if (reusable) return;
  ::close(connection.fd);
  connection.fd = -1;
}

void StreamClient::end_overdue(Instant at) {
  for (const auto& c : connections_) {
    if (!c->busy || at - c->record.sent < limit_) continue;
    c->record.error = "no end in time";
    end(*c, false);
  }
}

}  // namespace baton::load
