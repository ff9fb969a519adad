#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/status.h"

namespace baton::cli {

struct HttpReply {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// Where a server is, and what is shown to it.
struct ServerPlace {
  std::string address;  // host:port
  std::string key;      // sent as `Authorization: Bearer`; empty: none
  bool tls = false;
  // Under TLS: the server must show this one (PEM), whatever name it carries; empty: one of an authority that
  // this machine trusts (or SSL_CERT_FILE names), with the name in the address.
  std::string certificate;

  std::string url() const { return (tls ? "https://" : "http://") + address; }
};

// A blocking HTTP/1.1 client, with or without TLS, for the user's commands (ps, chat, bench): one connection,
// kept alive between requests, a deadline on every wait. Thread: one.
class HttpClient {
 public:
  HttpClient(ServerPlace server, Duration timeout);
  HttpClient(std::string host_port, Duration timeout)
      : HttpClient(ServerPlace{.address = std::move(host_port)}, timeout) {}
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  absl::StatusOr<HttpReply> get(const std::string& target);
  absl::StatusOr<HttpReply> post(const std::string& target, const std::string& json);
  // Calls `on_event` with the text after "data: " of each server-sent event, as it arrives; return false to
  // hang up. An answer that is no event stream comes back whole in `body`.
  using EventFn = std::function<bool(std::string_view data)>;
  absl::StatusOr<HttpReply> post_stream(const std::string& target, const std::string& json,
                                        const EventFn& on_event);
  void close();

 private:
  struct Connection;
  absl::StatusOr<HttpReply> exchange(const std::string& method, const std::string& target,
                                     const std::string& body, const EventFn* on_event);
  absl::StatusOr<HttpReply> exchange_once(const std::string& method, const std::string& target,
                                          const std::string& body, const EventFn* on_event);
  absl::Status connect();
  absl::Status prepare_tls(Connection& connection, const std::string& host) const;
  const ServerPlace server_;
  Duration timeout_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace baton::cli
