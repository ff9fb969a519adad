#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "base/timers.h"
#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/head_check.h"
#include "coordinator/gateway/routes.h"
#include "transport/tls/server_tls.h"

namespace baton::coordinator {

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;  // 0 = any free one, see HttpServer::port()
  size_t max_connections = 4096;
  size_t max_connections_per_ip = 1024;  // of users behind one proxy, all together
  bool limit_loopback = false;           // does the limit per IP hold for 127.0.0.0/8 and ::1 too
  HttpLimits limits;
  Duration head_timeout = timers::kHttpHead;
  Duration body_idle = std::chrono::seconds(10);
  size_t body_bytes_per_second = 1024;  // slower than this, after body_idle, is cut off
  Duration keep_alive = timers::kHttpKeepAlive;
  Duration write_stall = timers::kWriteStall;
  size_t answer_bytes_per_second = 16 * 1024;  // slower than this, after write_stall, is cut off
  Duration sse_keep_alive = timers::kSseKeepAlive;
  Duration tick = std::chrono::milliseconds(100);  // how exactly the times above are kept
  size_t output_bytes = 256 * 1024;  // a stream may hold more only for write_stall, and never 4 times as much
  size_t all_body_bytes = 256 << 20;  // of bodies that are still coming, over all connections; then 503
  size_t early_bytes = 64 * 1024;     // sent by a client before its answer is complete
  std::shared_ptr<transport::ServerTls> tls;  // of this server alone; null: plain HTTP
  std::vector<std::string> allowed_origins;   // of pages that may read answers in a browser; "*": all
};

struct HttpServerDeps {
  const Clock* clock = nullptr;
  std::function<uint64_t()> random;    // for request ids
  std::function<int64_t()> unix_time;  // for the Date field
  std::function<void(int status)>
      on_refused;  // what did not get as far as a route, or was not admitted; may be empty
  // What keeps this request, of which there is the head, from routes of that role; nothing: it may use them.
  // Empty: everybody may (loopback).
  std::function<std::optional<ApiError>(RouteRole, HttpRequest&)> admit;
  // Work of the wiring's own on the io thread: called first, after each wake(), and at the time it returned.
  // May be empty.
  std::function<Instant(Instant now)> turn;
};

// HTTP/1.1 on one TCP port: the strict check, keep-alive, time limits, answers and streams. One request at a
// time per connection. While an answer is being made the connection is still read, so that a client that
// leaves is seen at once; one that only closes its sending side gets its answer (HTTP/1.0 cannot tell the
// two apart: there it has left). Thread: run() is the io thread, and every handler and Exchange lives on it;
// the other methods any. Owns the sockets. Errors: listen() says address and port; a broken connection ends
// alone.
class HttpServer {
 public:
  // kAlreadyExists when the port is in use, kInvalidArgument for an address that is none.
  static absl::StatusOr<std::unique_ptr<HttpServer>> listen(HttpServerOptions options, RouteTable routes,
                                                            HttpServerDeps deps);
  ~HttpServer();

  uint16_t port() const;
  // Serves until stop().
  void run();
  // Runs `work` on the io thread; dropped after stop().
  void post(std::function<void()> work);
  // A turn is due. Many calls before it make one turn.
  void wake();
  // No new connections; those at rest are closed, the others after their answer.
  void begin_drain();
  // Closes everything (open exchanges see their client leave) and lets run() return.
  void stop();
  size_t open_connections() const;
  size_t open_exchanges() const;

 private:
  class Listener;
  explicit HttpServer(std::shared_ptr<Listener> listener);
  std::shared_ptr<Listener> listener_;
};

}  // namespace baton::coordinator
