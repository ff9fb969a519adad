#include "transport/data/socket_links.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"

namespace baton::transport {
namespace {

constexpr uint64_t kWakeKey = 0;  // links are counted from 1
constexpr uint64_t kListenKey = ~uint64_t{0};
constexpr uint64_t kOtherKey = kListenKey - 1;  // somebody else's descriptor
constexpr size_t kEvents = 64;
constexpr int kBacklog = 256;
// Of one link in one poll(): the others and timers get on, and a sender with 8 MiB under way has the answers
// to a quarter of them while the next ones are read.
constexpr size_t kReadBudget = 2 << 20;
constexpr int kSendBufferWithinMachine = 256 << 10;  // the kernel doubles it
constexpr size_t kFlushAtOnce = 64 << 10;  // less waits until the next turn: small frames travel together

absl::Status failed(std::string_view what) {
  return absl::UnavailableError(cat("data socket: ", what, ": ", std::strerror(errno)));
}

void set(int descriptor, int level, int option, int value) {
  // Refused by an odd kernel: the connection is slower or found dead later, not wrong.
  (void)::setsockopt(descriptor, level, option, &value, sizeof value);
}

// The kernel's own buffers grow to many MiB by themselves, as a long way needs it.
void tune(int descriptor) {
  using std::chrono::milliseconds;
  const auto limit = std::chrono::duration_cast<milliseconds>(timers::kTransferCap).count();
  set(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
  set(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(limit));
  set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(limit / 1000 / 2));
  set(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, 1);
}

}  // namespace

// ---- start and stop
// -------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<SocketLinks>> SocketLinks::create(
    const std::string& host, uint16_t port, const std::optional<StreamSecurity>& security) {
  std::unique_ptr<SocketLinks> links(new SocketLinks);
  if (security) {
    ASSIGN_OR_RETURN(links->tls_, TlsContext::create(*security));
  }
  RETURN_IF_ERROR(links->start(host, port));
  return links;
}

absl::Status SocketLinks::watch(int descriptor, uint64_t key) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = key;
  return ::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) == 0 ? absl::OkStatus() : failed("epoll");
}

absl::Status SocketLinks::start(const std::string& host, uint16_t port) {
  ASSIGN_OR_RETURN(own_, parse_address(host, 0));
  ASSIGN_OR_RETURN(SocketAddress address, parse_address(host, port));
  listen_ = ::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listen_ < 0) return failed("socket");
  // A restarted worker gets its port back while old connections to it linger.
  set(listen_, SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(listen_, address.get(), address.size) != 0) {
    if (errno == EADDRNOTAVAIL)
      return absl::InvalidArgumentError(cat("data address ", host, ": no interface of this machine has it"));
    return failed(cat("listen on ", join_address(host, port)));
  }
  if (::listen(listen_, kBacklog) != 0) return failed(cat("listen on ", join_address(host, port)));
  if (::getsockname(listen_, address.get(), &address.size) != 0) return failed("getsockname");
  address_ = cat(scheme(), join_address(host, address.port()));
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  wake_events_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  spare_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (epoll_ < 0 || wake_events_ < 0 || spare_ < 0) return failed("descriptors");
  RETURN_IF_ERROR(watch(wake_events_, kWakeKey));
  return watch(listen_, kListenKey);
}

SocketLinks::~SocketLinks() {
  links_.clear();
  closed_.clear();
  for (const int fd : {listen_, wake_events_, epoll_, spare_})
    if (fd >= 0) ::close(fd);
}

void SocketLinks::send_from(const SourceFile& file) {
  struct sigaction now{};
  // sendfile() on a connection that broke raises it, and there is no flag against that.
  if (::sigaction(SIGPIPE, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
  file_ = file;
}

// ---- links
// ----------------------------------------------------------------------------------------------------

LinkId SocketLinks::add_connection(int descriptor, bool connecting) {
  tune(descriptor);
  const LinkId id = ++links_made_;
  if (tls_) tls_->refresh();
  auto tls = tls_
                 ? std::make_unique<TlsStream>(
                       *tls_, descriptor, connecting ? TlsStream::Side::kConnects : TlsStream::Side::kAccepts)
                 : nullptr;
  auto connection = std::make_unique<StreamConnection>(id, descriptor, connecting, std::move(tls));
  connection->send_from(file_);
  if (!watch(descriptor, id).ok()) return 0;
  StreamConnection& added = *connection;
  links_[id] = std::move(connection);
  output_watched_[id] = false;
  watch_output(added);
  return id;
}

absl::StatusOr<LinkId> SocketLinks::connect(const std::string& address) {
  if (!address.starts_with(scheme()))
    return absl::InvalidArgumentError(cat("data address ", address, ": the peer's lane is not `",
                                          stream_lane(),
                                          "`; give both the same transport, and TLS to both or to none"));
  ASSIGN_OR_RETURN(const auto host_port, split_address(address.substr(scheme().size())));
  ASSIGN_OR_RETURN(const SocketAddress peer, parse_address(host_port.first, host_port.second));
  if (peer.family() != own_.family())
    return absl::InvalidArgumentError(cat("data address ", address, ": not of this worker's address family"));
  const int fd = ::socket(peer.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("socket");
  set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
  if (::bind(fd, own_.get(), own_.size) != 0 ||
      (::connect(fd, peer.get(), peer.size) != 0 && errno != EINPROGRESS)) {
    const absl::Status why = failed(cat("connect to ", address));
    ::close(fd);
    return why;
  }
  const LinkId link = add_connection(fd, true);
  return link != 0 ? absl::StatusOr<LinkId>(link) : failed("epoll");
}

int SocketLinks::accept_all() {
  int accepted = 0;
  while (accepted < kBacklog) {
    const int fd = ::accept4(listen_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      ++accepted;
      if (const LinkId link = add_connection(fd, false); link != 0) listener_->on_accepted(link);
      continue;
    }
    if ((errno != EMFILE && errno != ENFILE) || spare_ < 0) return accepted;
    // Without a descriptor to take it with, the caller would be announced again and again.
    ::close(spare_);
    const int turned_away = ::accept(listen_, nullptr, nullptr);
    if (turned_away >= 0) ::close(turned_away);
    spare_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (turned_away < 0) return accepted;
  }
  return accepted;
}

void SocketLinks::close(LinkId link) {
  const auto it = links_.find(link);
  if (it == links_.end()) return;
  // At once, for peer_closed() at the other end; the descriptor lives until nobody is inside any more.
  it->second->hang_up();
  (void)::epoll_ctl(epoll_, EPOLL_CTL_DEL, it->second->descriptor(), nullptr);
  closed_.push_back(std::move(it->second));
  links_.erase(it);
  output_watched_.erase(link);
}

// What it sent before it closed may still wait here: the kernel knows more than what was read.
bool SocketLinks::peer_closed(LinkId link) const {
  const auto it = links_.find(link);
  if (it == links_.end()) return true;
  pollfd end{.fd = it->second->descriptor(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&end, 1, 0) != 0;
}

void SocketLinks::send(LinkId link, OutgoingFrame frame) {
  const auto it = links_.find(link);
  if (it == links_.end()) return;
  StreamConnection& connection = *it->second;
  const bool idle = connection.queued_bytes() == 0;
  connection.queue(std::move(frame));
  if (idle) to_flush_.push_back(link);
  if (connection.queued_bytes() >= kFlushAtOnce) {
    connection.flush();
    watch_output(connection);
  }
}

// Sent bytes are then read while they lie in a cache, and BBR's timer, which takes up the sender's core, has
// nothing to hold back (benchmarks/transfer). Pages of the file are read by the receiver's core, which on
// Intel's servers has a longer way to memory than to what the sender's core has just copied.
void SocketLinks::within_machine(LinkId link) {
  const auto it = links_.find(link);
  if (it == links_.end()) return;
  set(it->second->descriptor(), SOL_SOCKET, SO_SNDBUF, kSendBufferWithinMachine);
  if (__builtin_cpu_is("intel")) it->second->send_from({});
}

// Asks to be told when there is room, as long as something waits.
void SocketLinks::watch_output(StreamConnection& connection) {
  if (connection.broken()) return broken_.push_back(connection.id());
  bool& watched = output_watched_[connection.id()];
  if (watched == connection.wants_to_write()) return;
  watched = !watched;
  epoll_event event{};
  event.events = watched ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.u64 = connection.id();
  (void)::epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.descriptor(), &event);
}

void SocketLinks::flush_all() {
  for (const LinkId link : to_flush_) {
    const auto it = links_.find(link);
    if (it == links_.end()) continue;
    it->second->flush();
    watch_output(*it->second);
  }
  to_flush_.clear();
}

// ---- loop
// -----------------------------------------------------------------------------------------------------

void SocketLinks::serve(StreamConnection& connection, uint32_t events) {
  if (events & EPOLLOUT) connection.flush();
  // Hang-ups and errors come out of the read with their reason.
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) connection.receive(*listener_, kReadBudget);
  if (!links_.contains(connection.id())) return;
  if (connection.holds_more() && std::ranges::find(to_receive_, connection.id()) == to_receive_.end())
    to_receive_.push_back(connection.id());
  watch_output(connection);
}

int SocketLinks::report_broken() {
  std::vector<LinkId> broken;
  broken.swap(broken_);
  int told = 0;
  for (const LinkId link : broken) {
    const auto it = links_.find(link);
    if (it == links_.end()) continue;  // told already, or closed by us
    const std::string reason = it->second->failure();
    close(link);
    listener_->on_closed(link, reason);
    ++told;
  }
  return told;
}

int SocketLinks::poll() {
  closed_.clear();
  flush_all();
  std::array<epoll_event, kEvents> events;
  const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
  std::vector<LinkId> held;
  held.swap(to_receive_);
  for (const LinkId link : held)
    if (const auto it = links_.find(link); it != links_.end()) serve(*it->second, EPOLLIN);
  int done = static_cast<int>(held.size());
  for (int i = 0; i < n; ++i) {
    const uint64_t key = events[static_cast<size_t>(i)].data.u64;
    // For wait() to see: its caller has not looked at its mailbox since.
    if (key == kWakeKey || key == kOtherKey) continue;
    ++done;
    if (key == kListenKey) {
      accept_all();
    } else if (const auto it = links_.find(key); it != links_.end()) {
      serve(*it->second, events[static_cast<size_t>(i)].events);
    }
  }
  return done + report_broken();
}

void SocketLinks::wait(Duration timeout) {
  flush_all();
  if (!broken_.empty() || !to_receive_.empty()) return;
  int milliseconds = -1;
  if (timeout != Duration::max()) {
    const auto up = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    milliseconds = static_cast<int>(std::clamp<int64_t>(up, 0, INT_MAX));
  }
  std::array<epoll_event, 2> events;
  const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), milliseconds);
  for (int i = 0; i < n; ++i) {
    uint64_t count;
    if (events[static_cast<size_t>(i)].data.u64 == kWakeKey && ::read(wake_events_, &count, sizeof count) < 0)
      continue;
  }
}

void SocketLinks::wait_for(int descriptor) { BATON_CHECK(watch(descriptor, kOtherKey).ok()); }

void SocketLinks::wake() {
  const uint64_t one = 1;
  // The counter cannot overflow in practice, and a full one is awake already.
  if (::write(wake_events_, &one, sizeof one) < 0) return;
}

}  // namespace baton::transport
