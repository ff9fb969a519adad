#pragma once

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/gateway/http_server.h"

namespace baton::coordinator {

class HttpConnection;
class ServerExchange;

// What all connections of one server share. Thread: io, but the two counters.
struct HttpServerState {
  HttpServerOptions options;
  RouteTable routes;
  HttpServerDeps deps;
  std::shared_ptr<boost::asio::io_context> io;
  std::vector<char> read_buffer = std::vector<char>(64 * 1024);
  std::string decrypted;  // of what was read last, under TLS
  bool draining = false;
  size_t body_bytes = 0;  // of bodies that are still coming, over all connections
  std::function<void(HttpConnection*)> on_closed;
  std::atomic<size_t> open_exchanges = 0;
  std::atomic<size_t> open_connections = 0;
};

// One accepted socket, from the first byte to the close. Thread: io. Owns socket, input check and output
// buffer. Under TLS what is read is decrypted before anything looks at it, and the output buffer holds what
// is encrypted. A state machine over two flags and the output: busy_ (a request is being answered),
// streaming_, closing_ (after what is in the buffer: no more requests).
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(HttpServerState& server, boost::asio::ip::tcp::socket socket, std::string client);
  void start();
  void on_tick(Instant now);
  void drain();  // close when at rest, else after the answer
  void close();  // now; an open exchange sees its client leave
  const std::string& client() const { return client_; }

 private:
  friend ServerExchange;
  using Socket = boost::asio::ip::tcp::socket;

  // ---- input
  void wait_readable();
  void on_readable();
  bool decrypt(std::string_view& bytes, bool& ended);
  void on_end_of_input(bool orderly);
  void settle_end_of_input();
  void ask_for_life();
  void take(std::string_view bytes);
  void count_body(size_t bytes);
  void dispatch();
  void on_head();
  bool parse_head();
  std::shared_ptr<ServerExchange> begin_exchange();
  void refuse(int status, std::string_view reason);
  // ---- answers; `number` is the exchange's, so that a late call for an earlier request does nothing
  bool is_current(uint64_t number) const { return busy_ && number == exchange_number_; }
  void answer(uint64_t number, const HttpAnswer& answer);
  void start_stream(uint64_t number, const HttpAnswer& head);
  void write_stream(uint64_t number, std::string_view bytes);
  void end_stream(uint64_t number, bool clean);
  void finish_exchange(bool reuse);
  std::string head_text(const HttpAnswer& answer, std::string_view framing) const;
  // ---- output
  void send(std::string_view bytes);
  void flush_soon();
  void flush();
  void close_soon();  // from inside a call of the exchange: not before that call has returned
  void begin_linger();
  size_t unsent() const { return out_.size() - out_at_; }
  // Of it what came behind a large write: that was allowed whole, so only what follows tells a slow reader.
  size_t backlog() const { return out_.size() - std::max(out_at_, large_end_); }
  void tick_output(Instant now);
  void tick_input(Instant now);
  Instant now() const { return server_.deps.clock->now(); }

  HttpServerState& server_;
  Socket socket_;
  const std::string client_;
  const std::unique_ptr<transport::TlsSession> tls_;  // null: plain
  HeadCheck check_;
  HttpRequest request_;                   // that is coming, from the end of its head on
  bool head_parsed_ = false;              // as the check read it
  RouteTable::Match match_;               // of its head
  std::optional<ApiError> not_admitted_;  // to that route
  std::string early_;                     // bytes of the next request, while this one is answered
  std::string out_;
  size_t out_at_ = 0;
  size_t large_end_ = 0;  // in out_, of the last write that was larger than the limit
  std::weak_ptr<ServerExchange> exchange_;
  std::string request_id_;
  ApiDialect dialect_ = ApiDialect::kOpenAi;
  std::string origin_;  // that may read the answer (cross_origin.h); empty: none
  uint64_t exchange_number_ = 0;
  bool busy_ = false;
  bool streaming_ = false;
  bool event_stream_ = false;
  bool chunked_output_ = false;
  bool head_only_ = false;
  bool reusable_ = true;
  bool closing_ = false;
  bool lingering_ = false;
  bool closed_ = false;
  bool waiting_write_ = false;
  bool flush_posted_ = false;
  bool end_of_input_ = false;
  bool said_continue_ = false;
  size_t drained_ = 0;
  size_t counted_body_ = 0;  // of server_.body_bytes
  Instant message_since_{};  // first byte of the message, then its head's end
  Instant last_input_{};
  Instant idle_since_{};
  Instant last_stream_write_{};
  Instant output_progress_{};
  Instant over_limit_since_ = kNever;
  Instant written_by_ = kNever;  // what is left of answers that are complete
  Instant linger_until_{};
};

}  // namespace baton::coordinator
