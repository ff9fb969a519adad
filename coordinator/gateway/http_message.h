#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace baton::coordinator {

// Whose shapes a route's errors have.
enum class ApiDialect : uint8_t { kOpenAi, kAnthropic };

struct HttpField {
  std::string name;  // lower case
  std::string value;
};

// A whole request, checked and decoded.
struct HttpRequest {
  std::string method;
  std::string path;   // as sent, without the query
  std::string query;  // without the question mark
  std::vector<HttpField> fields;
  std::string body;
  std::string request_id;                    // the client's x-request-id when it is clean, else a fresh one
  std::string client;                        // address, without the port
  ApiDialect dialect = ApiDialect::kOpenAi;  // of its route
  std::string tenant;            // whose key came with it (access.h); empty where there are no keys
  std::shared_ptr<void> ticket;  // the tenant's right to one request at a time more; until it is answered
  Instant received{};            // last byte read

  // The first field of that (lower-case) name; empty when there is none.
  std::string_view field(std::string_view name) const {
    const auto it = std::find_if(fields.begin(), fields.end(), [&](const auto& f) { return f.name == name; });
    return it == fields.end() ? std::string_view() : std::string_view(it->value);
  }
};

// Status line and fields; the server adds length or chunking, date, server, x-request-id and connection.
struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";  // empty: not sent
  std::string body;
  std::vector<HttpField> fields;
};

// One request and the writing of its answer. Thread: io; the destructor any. Either answer() once, or
// start_stream(), write() any number of times, and end() or abort(). After the client has left, all of them
// do nothing. Dropping an exchange that was not answered ends the connection with 500.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const HttpRequest& request() const = 0;
  virtual HttpRequest& mutable_request() = 0;  // to move the body out
  virtual void answer(HttpAnswer answer) = 0;
  // answer.body is ignored. Content type text/event-stream gets keep-alive comments while nothing is written.
  virtual void start_stream(HttpAnswer head) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end() = 0;
  // Sends what was written, then closes without the end of the chunked body: the client can tell it is
  // broken.
  virtual void abort() = 0;
  // Called once, at the moment the client closes its side, a write stalls or the server stops, when that is
  // before the end of the answer. Never called from inside another method of this class.
  virtual void on_client_left(std::function<void()> callback) = 0;
};

}  // namespace baton::coordinator
