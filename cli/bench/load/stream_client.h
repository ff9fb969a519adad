#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "cli/bench/load/stream_reader.h"

namespace baton::load {

struct StreamRequest {
  std::string path = "/v1/completions";
  std::string body;          // JSON
  int drop_after = 0;        // hang up once so many tokens are known to have come; 0: read to the end
  bool keep_alive = false;   // use and keep a connection; else one of its own, closed afterwards
  bool keep_events = false;  // StreamRecord::events
  int prompt_tokens = 0;     // what the server must count; 0: not checked
  int output_tokens = 0;
};

// Sends requests and times their streamed answers, all on the caller's thread, over non-blocking sockets and
// one epoll. A time is taken once per wake-up and socket, right after its bytes were read: events that came
// in one read have one time. Thread: one. Owns the sockets. Errors: make() when the address is none;
// everything that goes wrong with a stream is its StreamRecord::error, a stream that takes longer than
// `limit` too.
class StreamClient {
 public:
  // `key` is sent with every request, unless empty.
  static absl::StatusOr<std::unique_ptr<StreamClient>> make(const std::string& host_port, Duration limit,
                                                            const std::string& key = "");
  ~StreamClient();

  // Starts one; `tag` comes back with its record.
  void start(const StreamRequest& request, int tag);
  struct Ended {
    int tag = 0;
    StreamRecord record;
  };
  // Reads until a stream has ended or `until` has come; the streams that ended since the last call.
  std::vector<Ended> wait(Instant until);
  size_t open() const { return open_; }

 private:
  struct Connection;
  StreamClient(int epoll, Duration limit);
  absl::Status connect(Connection& connection);
  Connection* idle_connection();
  void on_ready(Connection& connection, unsigned events);
  void write_some(Connection& connection);
  void read_some(Connection& connection);
  void after_bytes(Connection& connection);
  void end(Connection& connection, bool reusable);
  void end_overdue(Instant now);

  const int epoll_;
  const Duration limit_;
  std::string fields_;          // of every request: Host, and Authorization when there is a key
  std::vector<char> endpoint_;  // a sockaddr
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Ended> ended_;
  size_t open_ = 0;
};

}  // namespace baton::load
