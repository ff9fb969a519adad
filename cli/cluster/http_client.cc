#include "cli/cluster/http_client.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "base/cat.h"

namespace baton::cli {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

struct HttpClient::Connection {
  using Socket = asio::ip::tcp::socket;
  asio::io_context io;
  asio::ssl::context tls_context{asio::ssl::context::tls_client};
  std::unique_ptr<asio::ssl::stream<Socket>> tls;
  Socket plain{io};
  boost::beast::flat_buffer buffer;

  Socket& socket() { return tls ? tls->next_layer() : plain; }
  template <class Work>
  auto with_stream(const Work& work) {
    return tls ? work(*tls) : work(plain);
  }
};

namespace {

absl::Status network_error(const std::string& where, const error_code& error) {
  const bool late = error == asio::error::would_block || error == asio::error::try_again;
  return absl::UnavailableError(cat(where, ": ", late ? "no answer in time" : error.message()));
}

// Why hands were not shaken, and what to do.
template <class Stream>
absl::Status handshake_error(const ServerPlace& server, Stream& stream, const error_code& error) {
  const long verdict = SSL_get_verify_result(stream.native_handle());
  if (error.category() != asio::error::get_ssl_category()) return network_error(server.address, error);
  if (verdict == X509_V_OK)
    return absl::UnavailableError(
        cat(server.address, ": no TLS there: ", error.message(), "; is it http:// ?"));
  return absl::PermissionDeniedError(
      cat(server.address, ": its certificate is not trusted: ", X509_verify_cert_error_string(verdict),
          "; SSL_CERT_FILE=FILE names the authority that made it (PEM)"));
}

// Cuts a byte stream into the data of its events; an event ends with an empty line.
class EventSplitter {
 public:
  bool feed(std::string_view bytes, const HttpClient::EventFn& on_event) {
    pending_.append(bytes);
    size_t at = 0;
    for (size_t end; (end = pending_.find("\n\n", at)) != std::string::npos; at = end + 2) {
      const std::string_view event = std::string_view(pending_).substr(at, end - at);
      if (event.starts_with("data: ") && !on_event(event.substr(6))) return false;
    }
    pending_.erase(0, at);
    return true;
  }

 private:
  std::string pending_;
};

}  // namespace

HttpClient::HttpClient(ServerPlace server, Duration timeout)
    : server_(std::move(server)), timeout_(timeout) {}
HttpClient::~HttpClient() = default;

void HttpClient::close() { connection_.reset(); }

// Who must be at the other end.
absl::Status HttpClient::prepare_tls(Connection& connection, const std::string& host) const {
  error_code error;
  auto& context = connection.tls_context;
  context.set_verify_mode(asio::ssl::verify_peer, error);
  if (server_.certificate.empty()) {
    context.set_default_verify_paths(error);
  } else {
    context.load_verify_file(server_.certificate, error);
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context.native_handle()), X509_V_FLAG_PARTIAL_CHAIN);
  }
  if (error) return absl::InvalidArgumentError(cat(server_.certificate, ": ", error.message()));
  connection.tls = std::make_unique<asio::ssl::stream<Connection::Socket>>(connection.io, context);
  if (!server_.certificate.empty()) return absl::OkStatus();
  SSL* ssl = connection.tls->native_handle();
  if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1) return absl::OkStatus();
  ERR_clear_error();
  SSL_set1_host(ssl, host.c_str());
  SSL_set_tlsext_host_name(ssl, host.c_str());
  return absl::OkStatus();
}

absl::Status HttpClient::connect() {
  auto connection = std::make_unique<Connection>();
  const size_t colon = server_.address.rfind(':');
  std::string host = server_.address.substr(0, colon);
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  if (server_.tls) RETURN_IF_ERROR(prepare_tls(*connection, host));
  error_code error;
  asio::ip::tcp::resolver resolver(connection->io);
  const auto endpoints =
      resolver.resolve(host, colon == std::string::npos ? "80" : server_.address.substr(colon + 1), error);
  if (!error) asio::connect(connection->socket(), endpoints, error);
  if (error) return network_error(server_.address, error);
  connection->socket().set_option(asio::ip::tcp::no_delay(true), error);
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(timeout_).count();
  const timeval limit{.tv_sec = us / 1000000, .tv_usec = us % 1000000};
  ::setsockopt(connection->socket().native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(connection->socket().native_handle(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connection->tls) connection->tls->handshake(asio::ssl::stream_base::client, error);
  if (error) return handshake_error(server_, *connection->tls, error);
  connection_ = std::move(connection);
  return absl::OkStatus();
}

absl::StatusOr<HttpReply> HttpClient::exchange_once(const std::string& method, const std::string& target,
                                                    const std::string& body, const EventFn* on_event) {
  if (!connection_) RETURN_IF_ERROR(connect());
  std::string request =
      cat(method, " ", target, " HTTP/1.1\r\nHost: ", server_.address, "\r\nUser-Agent: baton\r\n");
  if (!server_.key.empty()) request += cat("Authorization: Bearer ", server_.key, "\r\n");
  if (method == "POST")
    request += cat("Content-Type: application/json\r\nContent-Length: ", body.size(), "\r\n");
  request += cat("\r\n", body);
  error_code error;
  for (size_t sent = 0; sent < request.size();) {
    sent += connection_->with_stream(
        [&](auto& stream) { return asio::write(stream, asio::buffer(request) + sent, error); });
    if (error && error != asio::error::interrupted) break;
  }
  if (error) return network_error(server_.address, error);

  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  // A process that was stopped and goes on (SIGCONT) finds its waits interrupted: they go on as well.
  do {
    connection_->with_stream(
        [&](auto& stream) { return http::read_header(stream, connection_->buffer, parser, error); });
  } while (error == asio::error::interrupted);
  if (error) return network_error(server_.address, error);
  HttpReply reply;
  reply.status = parser.get().result_int();
  for (const auto& field : parser.get()) {
    std::string name(field.name_string());
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    reply.headers[name] = std::string(field.value());
  }
  const bool streaming = on_event && reply.headers["content-type"].starts_with("text/event-stream");
  EventSplitter events;
  char chunk[16384];
  while (!parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof chunk;
    parser.get().body().more = true;
    connection_->with_stream(
        [&](auto& stream) { return http::read_some(stream, connection_->buffer, parser, error); });
    if (error == http::error::need_buffer || error == asio::error::interrupted) error = {};
    const std::string_view got(chunk, sizeof chunk - parser.get().body().size);
    if (streaming && !events.feed(got, *on_event)) {
      close();
      return reply;
    }
    if (!streaming) reply.body += got;
    if (error) return network_error(server_.address, error);
  }
  if (!parser.get().keep_alive()) close();
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::exchange(const std::string& method, const std::string& target,
                                               const std::string& body, const EventFn* on_event) {
  const bool reused = connection_ != nullptr;
  auto reply = exchange_once(method, target, body, on_event);
  if (!reply.ok()) close();
  // The server may have closed an idle connection just now; a GET can be asked again.
  if (!reply.ok() && reused && method == "GET") {
    reply = exchange_once(method, target, body, on_event);
    if (!reply.ok()) close();
  }
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::get(const std::string& target) {
  return exchange("GET", target, "", nullptr);
}
absl::StatusOr<HttpReply> HttpClient::post(const std::string& target, const std::string& json) {
  return exchange("POST", target, json, nullptr);
}
absl::StatusOr<HttpReply> HttpClient::post_stream(const std::string& target, const std::string& json,
                                                  const EventFn& on_event) {
  return exchange("POST", target, json, &on_event);
}

}  // namespace baton::cli
