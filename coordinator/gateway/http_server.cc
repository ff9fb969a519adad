#include "coordinator/gateway/http_server.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/cat.h"
#include "base/check.h"
#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/http_connection.h"

namespace baton::coordinator {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr const char* kTooManyConnections =
    "too many connections (spec.gateway.limits.connections of the manifest says how many there may be)";
constexpr const char* kTooManyOfAddress =
    "too many connections from this address (spec.gateway.limits.connectionsPerAddress of the manifest says "
    "how many one may have)";

// Kept so that one descriptor can be freed to take, and refuse, a connection when there are none left: the
// kernel's queue of waiting clients would otherwise stay full and wake the acceptor for ever.
class SpareDescriptor {
 public:
  SpareDescriptor() { hold(); }
  ~SpareDescriptor() { release(); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;
  void hold() {
    if (fd_ < 0) fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  void release() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

absl::Status listen_error(const std::string& address, uint16_t port, const error_code& ec) {
  const std::string where = cat("gateway: ", address, ":", port, ": ");
  if (ec == asio::error::address_in_use)
    return absl::AlreadyExistsError(cat(where, "the port is in use by another process; name another port"));
  if (ec == asio::error::access_denied)
    return absl::PermissionDeniedError(
        cat(where, "this user may not listen on the port; ports from 1024 are free"));
  return absl::InvalidArgumentError(cat(where, "cannot listen: ", ec.message()));
}

}  // namespace

// The acceptor, the clock tick and the list of connections. Thread: io.
class HttpServer::Listener : public std::enable_shared_from_this<HttpServer::Listener> {
 public:
  Listener(HttpServerOptions options, RouteTable routes, HttpServerDeps deps)
      : io_(std::make_shared<asio::io_context>(1)),
        until_stop_(asio::make_work_guard(*io_)),
        acceptor_(*io_),
        retry_(*io_),
        tick_(*io_),
        wake_(*io_),
        turn_timer_(*io_) {
    state_.options = std::move(options);
    state_.routes = std::move(routes);
    state_.deps = std::move(deps);
    state_.io = io_;
    state_.on_closed = [this](HttpConnection* c) { forget(c); };
  }

  absl::Status open() {
    error_code ec;
    const auto address = asio::ip::make_address(state_.options.address, ec);
    if (ec)
      return absl::InvalidArgumentError(
          cat("gateway: `", state_.options.address, "` is no IP address; use 127.0.0.1, ::1, 0.0.0.0 or ::"));
    const tcp::endpoint endpoint(address, state_.options.port);
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
    if (!ec) acceptor_.non_blocking(true, ec);
    if (ec) return listen_error(state_.options.address, state_.options.port, ec);
    wake_.assign(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), ec);
    if (ec) return absl::UnavailableError(cat("gateway: no descriptor to be woken by: ", ec.message()));
    port_ = acceptor_.local_endpoint(ec).port();
    return absl::OkStatus();
  }

  void run() {
    accept();
    if (state_.deps.turn) await_wake();
    wake();
    io_->run();
  }

  void post(std::function<void()> work) {
    if (!stopped_) asio::post(*io_, std::move(work));
  }

  void wake() {
    if (!state_.deps.turn || woken_.exchange(true)) return;
    const uint64_t one = 1;
    (void)!::write(wake_.native_handle(), &one, sizeof one);
  }

  void begin_drain() {
    state_.draining = true;
    error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
    for (const auto& c : snapshot()) c->drain();
  }

  void stop() {
    error_code ignored;
    begin_drain();
    for (const auto& c : snapshot()) c->close();
    stopped_ = true;
    tick_.cancel();
    wake_.cancel(ignored);  // not closed: somebody may be about to write
    turn_timer_.cancel();
    until_stop_.reset();
  }

  uint16_t port() const { return port_; }
  const HttpServerState& state() const { return state_; }

 private:
  void accept() {
    acceptor_.async_accept([self = shared_from_this()](error_code ec, tcp::socket socket) {
      if (!self->acceptor_.is_open()) return;
      if (ec == asio::error::no_descriptors || ec.value() == ENFILE)
        return self->refuse_without_descriptors();
      if (!ec) self->take(std::move(socket));
      self->accept();
    });
  }

  void refuse_without_descriptors() {
    spare_.release();
    {
      error_code ec;
      tcp::socket refused(*io_);
      acceptor_.accept(refused, ec);
    }
    spare_.hold();
    if (state_.deps.on_refused) state_.deps.on_refused(503);
    retry_.expires_after(std::chrono::milliseconds(10));
    retry_.async_wait([self = shared_from_this()](error_code ec) {
      if (!ec && self->acceptor_.is_open()) self->accept();
    });
  }

  void take(tcp::socket socket) {
    error_code ec;
    const auto endpoint = socket.remote_endpoint(ec);
    if (ec) return;  // gone already
    const auto address = endpoint.address();
    std::string client = address.to_string();
    size_t& of_client = per_client_[client];
    const bool limited = state_.options.limit_loopback || !address.is_loopback();
    const bool full = connections_.size() >= state_.options.max_connections;
    if (full || (limited && of_client >= state_.options.max_connections_per_ip)) {
      if (of_client == 0) per_client_.erase(client);
      return refuse(std::move(socket), full ? kTooManyConnections : kTooManyOfAddress);
    }
    ++of_client;
    ++state_.open_connections;
    auto connection = std::make_shared<HttpConnection>(state_, std::move(socket), std::move(client));
    connections_.emplace(connection.get(), connection);
    connection->start();
    schedule_tick();
  }

  void refuse(tcp::socket socket, const char* why) {
    if (state_.deps.on_refused) state_.deps.on_refused(503);
    if (state_.options.tls) return;  // who has shaken no hands yet can be told nothing
    const std::string body = error_json(not_ready(why, std::chrono::seconds(1)));
    const std::string text = cat(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: ", body.size(),
        "\r\nretry-after: 1\r\nconnection: close\r\n\r\n", body);
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(text), ignored);
    socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  void forget(HttpConnection* connection) {
    const auto client = per_client_.find(connection->client());
    BATON_CHECK(client != per_client_.end());
    if (--client->second == 0) per_client_.erase(client);
    --state_.open_connections;
    connections_.erase(connection);
  }

  std::vector<std::shared_ptr<HttpConnection>> snapshot() const {
    std::vector<std::shared_ptr<HttpConnection>> all;
    all.reserve(connections_.size());
    for (const auto& [key, connection] : connections_) all.push_back(connection);
    return all;
  }

  // While there are connections: a server at rest does not wake.
  void schedule_tick() {
    if (ticking_ || connections_.empty()) return;
    ticking_ = true;
    tick_.expires_after(state_.options.tick);
    tick_.async_wait([self = shared_from_this()](error_code ec) {
      self->ticking_ = false;
      if (ec || self->stopped_) return;
      const Instant now = self->state_.deps.clock->now();
      for (const auto& c : self->snapshot()) c->on_tick(now);
      self->schedule_tick();
    });
  }

  // A descriptor of our own: Asio's post() wakes this thread while it holds the lock that this thread takes
  // first, and who wakes it is on the same core as often as not.
  void await_wake() {
    wake_.async_wait(asio::posix::descriptor_base::wait_read, [self = shared_from_this()](error_code ec) {
      if (ec || self->stopped_) return;
      uint64_t wakes = 0;
      (void)!::read(self->wake_.native_handle(), &wakes, sizeof wakes);
      self->woken_.exchange(false);  // before the turn: what comes during it wakes again
      self->turn();
      self->await_wake();
    });
  }

  // A timer that is set too early is left alone: a turn that finds nothing to do costs less than setting it.
  void turn() {
    if (stopped_) return;
    const Instant now = state_.deps.clock->now();
    const Instant next = state_.deps.turn(now);
    if (next >= turn_at_) return;
    turn_at_ = next;
    turn_timer_.expires_after(std::max(next - now, Duration::zero()));
    turn_timer_.async_wait([self = shared_from_this()](error_code ec) {
      if (ec) return;
      self->turn_at_ = kNever;
      self->turn();
    });
  }

  std::shared_ptr<asio::io_context> io_;
  asio::executor_work_guard<asio::io_context::executor_type> until_stop_;
  HttpServerState state_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  asio::steady_timer tick_;
  asio::posix::stream_descriptor wake_;
  asio::steady_timer turn_timer_;
  Instant turn_at_ = kNever;  // when the timer is set to
  std::atomic<bool> woken_ = false;
  SpareDescriptor spare_;
  std::map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  absl::flat_hash_map<std::string, size_t> per_client_;
  std::atomic<bool> stopped_ = false;
  bool ticking_ = false;
  uint16_t port_ = 0;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::listen(HttpServerOptions options, RouteTable routes,
                                                               HttpServerDeps deps) {
  BATON_CHECK(deps.clock && deps.random && deps.unix_time);
  auto listener = std::make_shared<Listener>(std::move(options), std::move(routes), std::move(deps));
  RETURN_IF_ERROR(listener->open());
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(listener)));
}

HttpServer::HttpServer(std::shared_ptr<Listener> listener) : listener_(std::move(listener)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return listener_->port(); }
void HttpServer::run() { listener_->run(); }
void HttpServer::post(std::function<void()> work) { listener_->post(std::move(work)); }
void HttpServer::wake() { listener_->wake(); }
void HttpServer::begin_drain() {
  listener_->post([listener = listener_] { listener->begin_drain(); });
}
void HttpServer::stop() {
  listener_->post([listener = listener_] { listener->stop(); });
}
size_t HttpServer::open_connections() const { return listener_->state().open_connections; }
size_t HttpServer::open_exchanges() const { return listener_->state().open_exchanges; }

}  // namespace baton::coordinator
