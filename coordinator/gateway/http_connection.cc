#include "coordinator/gateway/http_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <ctime>

#include "base/cat.h"
#include "base/check.h"
#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/ascii.h"
#include "coordinator/gateway/cross_origin.h"

namespace baton::coordinator {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr auto kLinger = std::chrono::seconds(2);
constexpr size_t kLingerBytes = 64 << 20;  // a body that was refused for its length comes to its end
constexpr size_t kLargeWrites = 64;        // times the limit: more large writes than this are not let through
// To a client that forgot the s of https.
constexpr const char* kTlsOnly =
    "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 44\r\nconnection: close\r\n\r\n"
    "this port speaks TLS only: ask https:// here";
constexpr size_t kFlushBytes = 32 * 1024;  // more than this is written without waiting for more

std::string date_text(int64_t unix_seconds) {
  const time_t t = static_cast<time_t>(unix_seconds);
  tm parts{};
  gmtime_r(&t, &parts);
  char text[40];
  return std::string(text, strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts));
}

std::string fresh_request_id(const std::function<uint64_t()>& random) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string id;
  for (int word = 0; word < 2; ++word)
    for (uint64_t r = random(), i = 0; i < 16; ++i, r >>= 4) id += kHex[r & 15];
  return id;
}

// A value that comes from a worker's message must not be able to start a new line.
void append_field(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += ": ";
  for (const char c : value) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '_' : c;
  out += "\r\n";
}

std::string chunk_head(size_t bytes) {
  char text[20];
  return std::string(text, static_cast<size_t>(snprintf(text, sizeof text, "%zx\r\n", bytes)));
}

}  // namespace

// The exchange of one request: forwards to its connection while that is there.
class ServerExchange final : public Exchange {
 public:
  ServerExchange(std::weak_ptr<HttpConnection> connection, uint64_t number,
                 std::weak_ptr<asio::io_context> io, HttpRequest request)
      : connection_(std::move(connection)),
        number_(number),
        io_(std::move(io)),
        request_(std::move(request)) {}

  ~ServerExchange() override {
    const auto io = io_.lock();
    if (finished_ || !io) return;
    asio::post(*io, [connection = connection_, number = number_, id = request_.request_id,
                     dialect = request_.dialect]() mutable {
      if (auto c = connection.lock())
        c->answer(number,
                  error_answer({.status = 500, .message = "the request was dropped", .type = "server_error"},
                               {.request_id = std::move(id), .dialect = dialect}));
    });
  }

  const HttpRequest& request() const override { return request_; }
  HttpRequest& mutable_request() override { return request_; }
  void answer(HttpAnswer answer) override {
    leave();
    if (auto c = connection_.lock()) c->answer(number_, answer);
  }
  void start_stream(HttpAnswer head) override {
    if (auto c = connection_.lock()) c->start_stream(number_, head);
  }
  void write(std::string_view bytes) override {
    if (auto c = connection_.lock()) c->write_stream(number_, bytes);
  }
  void end() override { finish(true); }
  void abort() override { finish(false); }
  void on_client_left(std::function<void()> callback) override { on_left_ = std::move(callback); }

  void client_left() {
    finished_ = true;
    request_.ticket.reset();
    if (auto callback = std::exchange(on_left_, nullptr)) callback();
  }

 private:
  void leave() {
    finished_ = true;
    on_left_ = nullptr;
    request_.ticket.reset();
  }
  void finish(bool clean) {
    leave();
    if (auto c = connection_.lock()) c->end_stream(number_, clean);
  }

  std::weak_ptr<HttpConnection> connection_;
  const uint64_t number_;
  std::weak_ptr<asio::io_context> io_;
  HttpRequest request_;
  std::function<void()> on_left_;
  bool finished_ = false;
};

HttpConnection::HttpConnection(HttpServerState& server, Socket socket, std::string client)
    : server_(server),
      socket_(std::move(socket)),
      client_(std::move(client)),
      tls_(server.options.tls ? server.options.tls->accept() : nullptr),
      check_(server.options.limits) {}

void HttpConnection::start() {
  error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  idle_since_ = last_input_ = now();
  wait_readable();
}

// ---- input

// A read is always pending: nothing else tells that a client has gone while its answer is being computed.
void HttpConnection::wait_readable() {
  if (closed_ || end_of_input_) return;
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](error_code ec) {
    if (!ec && !self->closed_) self->on_readable();
  });
}

void HttpConnection::on_readable() {
  error_code ec;
  const size_t n = socket_.read_some(asio::buffer(server_.read_buffer), ec);
  if (ec == asio::error::would_block || ec == asio::error::try_again) return wait_readable();
  if (ec) return on_end_of_input(ec == asio::error::eof);
  last_input_ = now();
  std::string_view bytes(server_.read_buffer.data(), n);
  bool ended = false;
  if (closing_) {
    drained_ += n;
    if (drained_ > kLingerBytes) return close();
  } else if (tls_ && !decrypt(bytes, ended)) {
    return;
  } else if (busy_ || !early_.empty()) {  // what came before it was not looked at yet
    early_ += bytes;
    if (early_.size() > server_.options.early_bytes) return close();
  } else {
    take(bytes);
  }
  if (ended && !closed_) return on_end_of_input(true);
  wait_readable();
}

// `bytes` become what they say. False: the connection is closed, or will be.
bool HttpConnection::decrypt(std::string_view& bytes, bool& ended) {
  using State = transport::TlsSession::State;
  server_.decrypted.clear();
  const State state = tls_->receive(bytes, server_.decrypted, out_);
  bytes = server_.decrypted;
  ended = state == State::kEnded;
  if (state == State::kPlain) {
    out_ = kTlsOnly;
    closing_ = true;
  }
  if (unsent() > 0) flush();
  if (state == State::kPlain) wait_readable();
  if (state == State::kBroken) close();
  return !closed_ && !closing_;
}

void HttpConnection::on_end_of_input(bool orderly) {
  end_of_input_ = true;
  if (!orderly || lingering_) return close();
  socket_.async_wait(Socket::wait_error, [self = shared_from_this()](error_code ec) {
    if (!ec) self->close();
  });
  settle_end_of_input();
}

// The client has said all it has to say.
void HttpConnection::settle_end_of_input() {
  if (busy_) return ask_for_life();
  if (closing_) return;         // what is in the buffer may still be sent
  if (!early_.empty()) return;  // its turn comes, and then this is settled
  if (check_.started()) {
    refuse(400, "the connection ended inside the request");
  } else if (unsent() == 0) {
    close();
  } else {
    closing_ = true;
  }
}

// A client that has gone and one that only closed its sending side look the same until something is sent: who
// has gone answers with RST. What is sent means nothing: a comment, or an interim answer, which HTTP/1.1
// allows any number of. Where neither can be sent the client counts as gone.
void HttpConnection::ask_for_life() {
  if (head_only_ || !chunked_output_ || (streaming_ && !event_stream_)) return close();
  if (streaming_) return write_stream(exchange_number_, ":\n\n");
  last_stream_write_ = now();
  send("HTTP/1.1 100 Continue\r\n\r\n");
}

void HttpConnection::take(std::string_view bytes) {
  while (!bytes.empty() && !busy_ && !closing_ && !closed_) {
    if (!check_.started()) message_since_ = now();
    const bool had_head = check_.head_complete();
    bytes.remove_prefix(check_.feed(bytes));
    count_body(check_.body_bytes());
    if (check_.rejected()) return refuse(check_.status(), check_.reason());
    if (!had_head && check_.head_complete()) {
      message_since_ = now();
      on_head();
      if (closing_) return;
    }
    if (server_.body_bytes > server_.options.all_body_bytes && counted_body_ > 0)
      return refuse(503, "too many request bodies are under way; try again");
    if (check_.complete()) {
      dispatch();
    } else if (check_.head_complete() && check_.expects_continue() && !check_.http_1_0() && !said_continue_ &&
               check_.body_bytes() == 0) {
      said_continue_ = true;
      send("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
  if (!busy_) return;
  early_ += bytes;
  if (early_.size() > server_.options.early_bytes) close_soon();
}

// What this connection holds of a body that is still coming.
void HttpConnection::count_body(size_t bytes) {
  server_.body_bytes = server_.body_bytes - counted_body_ + bytes;
  counted_body_ = bytes;
}

// Beast reads the head the check has let through; where the two disagree the request is refused.
bool HttpConnection::parse_head() {
  http::request_parser<http::empty_body> parser;
  parser.header_limit(static_cast<uint32_t>(server_.options.limits.head_bytes + 1));
  parser.body_limit(boost::none);
  error_code ec;
  parser.put(asio::buffer(check_.head()), ec);
  if ((ec && ec != http::error::need_more) || !parser.is_header_done()) return false;
  const auto& head = parser.get();
  const auto length = parser.content_length();
  if (parser.chunked() != check_.chunked() || length.value_or(0) != check_.content_length()) return false;
  if (head.method_string() != check_.method()) return false;
  request_.method = check_.method();
  const std::string_view target = check_.target();
  const size_t question = std::min(target.find('?'), target.size());
  request_.path = target.substr(0, question);
  if (question < target.size()) request_.query = target.substr(question + 1);
  for (const auto& field : head)
    request_.fields.push_back(
        {lower_case(std::string_view(field.name_string().data(), field.name_string().size())),
         std::string(field.value().data(), field.value().size())});
  return true;
}

// Whoever may not use the route is told so before the body is read, let alone kept.
void HttpConnection::on_head() {
  request_ = HttpRequest{.client = client_};
  head_parsed_ = parse_head();
  not_admitted_.reset();
  if (!head_parsed_) return;
  match_ = server_.routes.find(request_.method, request_.path);
  request_.dialect = match_.dialect;
  if (match_.route && server_.deps.admit) not_admitted_ = server_.deps.admit(match_.route->role, request_);
  if (!not_admitted_) return;
  if (server_.deps.on_refused) server_.deps.on_refused(not_admitted_->status);
  if (check_.complete()) return;
  const auto exchange = begin_exchange();
  reusable_ = false;
  exchange->answer(error_answer(*not_admitted_, exchange->request()));
}

std::shared_ptr<ServerExchange> HttpConnection::begin_exchange() {
  request_.received = now();
  request_.body = check_.take_body();
  count_body(0);
  const std::string_view id = request_.field("x-request-id");
  request_.request_id = valid_request_id(id) ? std::string(id) : fresh_request_id(server_.deps.random);
  request_id_ = request_.request_id;
  dialect_ = request_.dialect;
  head_only_ = request_.method == "HEAD";
  reusable_ = check_.keep_alive();
  chunked_output_ = !check_.http_1_0();
  busy_ = true;
  ++exchange_number_;
  ++server_.open_exchanges;
  origin_ = reading_origin(server_.options.allowed_origins, request_, match_.role);
  auto exchange =
      std::make_shared<ServerExchange>(weak_from_this(), exchange_number_, server_.io, std::move(request_));
  exchange_ = exchange;
  return exchange;
}

void HttpConnection::dispatch() {
  if (!head_parsed_) return refuse(400, "malformed request head");
  auto exchange = begin_exchange();
  const bool preflight = !match_.allow.empty() && !origin_.empty() && is_preflight(exchange->request());
  if (preflight) return exchange->answer(preflight_answer(match_.allow));
  if (!match_.route && match_.allow.empty()) {
    return exchange->answer(error_answer(
        {.status = 404, .message = cat("no such path: ", exchange->request().path), .code = "not_found"},
        exchange->request()));
  }
  if (!match_.route) {
    HttpAnswer answer =
        error_answer({.status = 405, .message = cat("use ", match_.allow), .code = "method_not_allowed"},
                     exchange->request());
    answer.fields.push_back({"allow", match_.allow});
    return exchange->answer(std::move(answer));
  }
  if (not_admitted_) return exchange->answer(error_answer(*not_admitted_, exchange->request()));
  match_.route->handler(std::move(exchange));
}

void HttpConnection::refuse(int status, std::string_view reason) {
  if (server_.deps.on_refused) server_.deps.on_refused(status);
  (void)check_.take_body();
  count_body(0);
  request_.ticket.reset();
  request_id_ = fresh_request_id(server_.deps.random);
  const std::string_view target = check_.target();
  dialect_ = server_.routes.find(check_.method(), target.substr(0, target.find('?'))).dialect;
  origin_.clear();
  HttpAnswer answer =
      error_answer({.status = status, .message = std::string(reason), .code = "malformed_http"},
                   {.request_id = request_id_, .dialect = dialect_});
  closing_ = true;
  send(head_text(answer, cat("content-length: ", answer.body.size(), "\r\n")) + answer.body);
}

// ---- answers

std::string HttpConnection::head_text(const HttpAnswer& answer, std::string_view framing) const {
  const auto reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(answer.status)));
  std::string head =
      cat("HTTP/1.1 ", answer.status, " ", std::string_view(reason.data(), reason.size()), "\r\n");
  if (!answer.content_type.empty()) append_field(head, "content-type", answer.content_type);
  append_field(head, "server", "baton");
  append_field(head, "date", date_text(server_.deps.unix_time()));
  append_field(head, "x-request-id", request_id_);
  if (dialect_ == ApiDialect::kAnthropic) append_field(head, "request-id", request_id_);
  for (const auto& field : answer.fields) append_field(head, field.name, field.value);
  if (!origin_.empty())
    for (const auto& field : cross_origin_fields(origin_)) append_field(head, field.name, field.value);
  head += framing;
  append_field(head, "connection", reusable_ && !closing_ && !server_.draining ? "keep-alive" : "close");
  head += "\r\n";
  return head;
}

void HttpConnection::answer(uint64_t number, const HttpAnswer& answer) {
  if (!is_current(number)) return;
  if (streaming_) return end_stream(number, false);
  const bool has_length = answer.status != 204;  // which has no body, and may not speak of one
  std::string text = head_text(answer, has_length ? cat("content-length: ", answer.body.size(), "\r\n") : "");
  if (!head_only_) text += answer.body;
  send(text);
  finish_exchange(reusable_);
}

void HttpConnection::start_stream(uint64_t number, const HttpAnswer& head) {
  if (!is_current(number)) return;
  BATON_CHECK(!streaming_, "a stream is started once");
  streaming_ = true;
  event_stream_ = head.content_type.starts_with("text/event-stream");
  if (!chunked_output_) reusable_ = false;
  last_stream_write_ = now();
  send(head_text(head, chunked_output_ ? "transfer-encoding: chunked\r\n" : ""));
}

void HttpConnection::write_stream(uint64_t number, std::string_view bytes) {
  if (!is_current(number) || bytes.empty()) return;
  last_stream_write_ = now();
  if (head_only_) return;
  if (!chunked_output_) return send(bytes);
  std::string chunk = chunk_head(bytes.size());
  chunk.append(bytes).append("\r\n");
  send(chunk);
}

void HttpConnection::end_stream(uint64_t number, bool clean) {
  if (!is_current(number)) return;
  if (clean && chunked_output_ && !head_only_) send("0\r\n\r\n");
  finish_exchange(clean && reusable_);
}

void HttpConnection::finish_exchange(bool reuse) {
  busy_ = streaming_ = event_stream_ = said_continue_ = false;
  exchange_.reset();
  --server_.open_exchanges;
  check_ = HeadCheck(server_.options.limits);
  idle_since_ = now();
  over_limit_since_ = kNever;
  written_by_ = now() + server_.options.write_stall +
                from_seconds(static_cast<double>(unsent()) /
                             static_cast<double>(server_.options.answer_bytes_per_second));
  if (!reuse || server_.draining) closing_ = true;
  if (closing_) return flush();
  if (early_.empty() && !end_of_input_) return;
  asio::post(*server_.io, [self = shared_from_this()] {
    if (self->busy_ || self->closing_ || self->closed_) return;
    const std::string bytes = std::exchange(self->early_, {});
    self->take(bytes);
    if (self->end_of_input_ && !self->closed_) self->settle_end_of_input();
  });
}

// ---- output

void HttpConnection::send(std::string_view bytes) {
  if (closed_) return;
  if (unsent() == 0) output_progress_ = now();
  const size_t limit = server_.options.output_bytes;
  const bool large = bytes.size() > limit && backlog() == 0 && unsent() <= kLargeWrites * limit;
  tls_ ? tls_->send(bytes, out_) : void(out_ += bytes);
  if (large) large_end_ = out_.size();
  unsent() < kFlushBytes ? flush_soon() : flush();
  if (!streaming_ || backlog() <= limit) {
    over_limit_since_ = kNever;
  } else if (backlog() > 4 * limit) {
    close_soon();
  } else if (over_limit_since_ == kNever) {
    over_limit_since_ = now();
  }
}

// After what is queued on this thread already: the events that have come together leave in one write. A write
// is the dearest part of a token here (it runs the receiver's half of the loopback, too).
void HttpConnection::flush_soon() {
  if (flush_posted_ || waiting_write_) return;
  flush_posted_ = true;
  asio::post(*server_.io, [self = shared_from_this()] {
    self->flush_posted_ = false;
    self->flush();
  });
}

void HttpConnection::flush() {
  if (closed_ || waiting_write_ || lingering_) return;
  while (unsent() > 0) {
    error_code ec;
    const size_t n = socket_.write_some(asio::buffer(out_.data() + out_at_, unsent()), ec);
    if (ec == asio::error::would_block || ec == asio::error::try_again) {
      waiting_write_ = true;
      socket_.async_wait(Socket::wait_write, [self = shared_from_this()](error_code wait_ec) {
        self->waiting_write_ = false;
        if (!wait_ec) self->flush();
      });
      break;
    }
    if (ec) return close_soon();
    out_at_ += n;
    output_progress_ = now();
  }
  if (out_at_ == out_.size() || out_at_ > std::max(server_.options.output_bytes, out_.size() / 2)) {
    out_.erase(0, out_at_);
    large_end_ -= std::min(large_end_, out_at_);
    out_at_ = 0;
    if (out_.empty() && out_.capacity() > server_.options.output_bytes) out_.shrink_to_fit();
  }
  if (unsent() > 0) return;
  written_by_ = kNever;
  if (!closing_ || busy_) return;
  if (tls_ && tls_->close(out_)) return flush();
  begin_linger();
}

void HttpConnection::close_soon() {
  asio::post(*server_.io, [self = shared_from_this()] { self->close(); });
}

// The answer is out. Closing a socket with unread input would send RST, which can overtake the answer: read
// and drop until the client closes, for a bounded time.
void HttpConnection::begin_linger() {
  if (lingering_) return;
  if (end_of_input_) return close_soon();
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  lingering_ = true;
  linger_until_ = now() + kLinger;
}

void HttpConnection::drain() {
  if (closed_ || busy_ || closing_ || check_.started()) return;
  if (unsent() == 0) return close();
  closing_ = true;
}

void HttpConnection::close() {
  if (closed_) return;
  const auto self = shared_from_this();
  closed_ = true;
  count_body(0);
  error_code ignored;
  socket_.close(ignored);
  if (busy_) {
    busy_ = streaming_ = false;
    --server_.open_exchanges;
    if (auto exchange = exchange_.lock()) exchange->client_left();
  }
  server_.on_closed(this);
}

// ---- time

void HttpConnection::on_tick(Instant now) {
  if (closed_) return;
  if (lingering_) {
    if (now >= linger_until_) close();
    return;
  }
  tick_output(now);
  if (!closed_ && !busy_ && !closing_) tick_input(now);
}

void HttpConnection::tick_output(Instant now) {
  const auto& options = server_.options;
  if (unsent() > 0 && now - output_progress_ >= options.write_stall) return close();
  if (unsent() > 0 && now >= written_by_) return close();
  if (over_limit_since_ != kNever && now - over_limit_since_ >= options.write_stall) return close();
  if (!busy_ || now - last_stream_write_ < options.sse_keep_alive) return;
  if (event_stream_) {
    write_stream(exchange_number_, ": keep-alive\n\n");
  } else if (end_of_input_) {
    ask_for_life();
  }
}

void HttpConnection::tick_input(Instant now) {
  const auto& options = server_.options;
  if (!check_.started()) {
    if (tls_ && !tls_->established() && now - idle_since_ >= options.head_timeout) return close();
    if (now - idle_since_ >= options.keep_alive) close();
    return;
  }
  if (!check_.head_complete()) {
    if (now - message_since_ >= options.head_timeout) refuse(408, "the request head took too long");
    return;
  }
  const auto allowance = options.body_idle + from_seconds(static_cast<double>(check_.body_bytes()) /
                                                          static_cast<double>(options.body_bytes_per_second));
  if (now - last_input_ >= options.body_idle || now - message_since_ >= allowance)
    refuse(408, "the request body came too slowly");
}

}  // namespace baton::coordinator
