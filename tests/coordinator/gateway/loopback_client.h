#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace baton::coordinator {

// A blocking HTTP client over one loopback socket, that can also misbehave. Every wait ends after 10 seconds.
class LoopbackClient {
 public:
  struct Reply {
    int status = 0;  // 0 = the connection ended before a head came
    std::map<std::string, std::string> fields;
    std::string body;       // chunks joined
    bool complete = false;  // the body ended as its framing says
  };

  explicit LoopbackClient(uint16_t port, int receive_buffer = 0);
  ~LoopbackClient() { close(); }
  LoopbackClient(const LoopbackClient&) = delete;
  LoopbackClient& operator=(const LoopbackClient&) = delete;

  void send(const std::string& bytes);
  void close();       // FIN
  void reset();       // RST
  void half_close();  // FIN of our side only
  // One reply, interim 100s left out. `head_only` for HEAD.
  Reply read_reply(bool head_only = false);
  // Up to and with the first occurrence of `mark`; what came before the end when it never comes.
  std::string read_until(const std::string& mark);
  std::string read_some();  // what one read gives
  bool at_end();            // the server has closed; waits for it

  Reply get(const std::string& path);
  Reply post(const std::string& path, const std::string& body, const std::string& fields = "");
  static std::string post_text(const std::string& path, const std::string& body,
                               const std::string& fields = "");

 private:
  bool fill();  // more bytes into buffer_; false at the end
  int fd_ = -1;
  std::string buffer_;
};

}  // namespace baton::coordinator
