#include "cli/cluster/http_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/cat.h"

namespace baton::cli {
namespace {

// A server that answers each accepted connection with the next text, whatever it is asked.
class CannedServer {
 public:
  explicit CannedServer(std::vector<std::string> answers) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at{
        .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    ::bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at);
    ::listen(fd_, 8);
    socklen_t size = sizeof at;
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size);
    port_ = ntohs(at.sin_port);
    thread_ = std::jthread([this, answers = std::move(answers)] {
      for (const std::string& answer : answers) {
        const int c = ::accept(fd_, nullptr, nullptr);
        char buffer[4096];
        if (::recv(c, buffer, sizeof buffer, 0) > 0)
          (void)!::send(c, answer.data(), answer.size(), MSG_NOSIGNAL);
        ::close(c);
      }
    });
  }
  ~CannedServer() {
    ::shutdown(fd_, SHUT_RDWR);
    thread_.join();
    ::close(fd_);
  }
  std::string address() const { return cat("127.0.0.1:", port_); }

 private:
  int fd_;
  uint16_t port_;
  std::jthread thread_;
};

constexpr auto kSoon = std::chrono::seconds(5);

TEST(HttpClient, ReadsABodyAndItsHeaders) {
  CannedServer server({"HTTP/1.1 201 Created\r\nX-Thing: 7\r\nContent-Length: 5\r\n\r\nhello"});
  HttpClient client(server.address(), kSoon);
  const auto reply = client.get("/");
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->status, 201);
  EXPECT_EQ(reply->headers.at("x-thing"), "7");
  EXPECT_EQ(reply->body, "hello");
}

TEST(HttpClient, CutsAnEventStreamAtAnyByte) {
  CannedServer server(
      {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
       "9\r\ndata: one\r\n2\r\n\n\n\r\nB\r\n: ping\n\ndat\r\n8\r\na: two\n\n\r\n0\r\n\r\n"});
  HttpClient client(server.address(), kSoon);
  std::vector<std::string> events;
  const auto reply = client.post_stream("/", "{}", [&](std::string_view e) {
    events.emplace_back(e);
    return true;
  });
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(events, (std::vector<std::string>{"one", "two"}));
}

TEST(HttpClient, ReportsAStreamThatBreaksOff) {
  CannedServer server(
      {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata"});
  HttpClient client(server.address(), kSoon);
  EXPECT_FALSE(client.post_stream("/", "{}", [](std::string_view) { return true; }).ok());
}

TEST(HttpClient, SaysWhenNobodyListens) {
  HttpClient client("127.0.0.1:1", kSoon);
  const auto reply = client.get("/");
  EXPECT_TRUE(absl::IsUnavailable(reply.status())) << reply.status();
  EXPECT_NE(reply.status().message().find("127.0.0.1:1"), std::string::npos);
}

TEST(HttpClient, AsksAGetAgainWhenTheIdleConnectionWasClosed) {
  const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  CannedServer server({answer, answer});
  HttpClient client(server.address(), kSoon);
  ASSERT_TRUE(client.get("/").ok());
  const auto again = client.get("/");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->body, "ok");
}

}  // namespace
}  // namespace baton::cli
