#include "cli/bench/load/load_run.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "base/cat.h"

namespace baton::load {
namespace {

// Answers every request on every connection with three text events; counts connections and requests.
class EventServer {
 public:
  EventServer() {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at{
        .sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    ::bind(fd_, reinterpret_cast<sockaddr*>(&at), sizeof at);
    ::listen(fd_, 64);
    socklen_t size = sizeof at;
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &size);
    port_ = ntohs(at.sin_port);
    acceptor_ = std::jthread([this] { accept_all(); });
  }
  ~EventServer() {
    ::shutdown(fd_, SHUT_RDWR);
    acceptor_.join();
    serving_.clear();
    ::close(fd_);
  }
  std::string address() const { return cat("127.0.0.1:", port_); }
  std::atomic<int> connections = 0, requests = 0;

 private:
  void accept_all() {
    for (int c; (c = ::accept(fd_, nullptr, nullptr)) >= 0;) {
      ++connections;
      serving_.emplace_back([this, c] { serve(c); });
    }
  }
  void serve(int c) {
    std::string got;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(c, buffer, sizeof buffer, 0)) > 0;) {
      got.append(buffer, static_cast<size_t>(n));
      if (!got.ends_with("END")) continue;  // the body of every request here
      got.clear();
      ++requests;
      answer(c);
    }
    ::close(c);
  }
  static void answer(int c) {
    std::string text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    const std::string events =
        "data: {\"text\":\"a\"}\n\ndata: {\"text\":\"b\"}\n\ndata: {\"text\":\"c\"}\n\n"
        "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    char size[20];
    std::snprintf(size, sizeof size, "%zx\r\n", events.size());
    text += cat(size, events, "\r\n0\r\n\r\n");
    (void)!::send(c, text.data(), text.size(), MSG_NOSIGNAL);
  }

  int fd_;
  uint16_t port_;
  std::vector<std::jthread> serving_;
  std::jthread acceptor_;
};

LoadGroup group(std::string name, Arrivals arrivals, bool keep_alive = false) {
  return {.name = std::move(name),
          .arrivals = arrivals,
          .requests = std::vector<StreamRequest>(
              static_cast<size_t>(std::max(arrivals.count, 1)),
              {.body = "END", .keep_alive = keep_alive, .prompt_tokens = 5, .output_tokens = 3})};
}

LoadResult run(EventServer& server, const std::vector<LoadGroup>& groups) {
  auto client = StreamClient::make(server.address(), std::chrono::seconds(20));
  EXPECT_TRUE(client.ok()) << client.status();
  ProcessMeter meter({});
  return run_load(**client, meter, groups);
}

TEST(LoadRun, ClosedLoopOpensAConnectionForEachRequest) {
  EventServer server;
  const LoadResult result = run(server, {group("all", {.count = 20, .at_once = 4})});
  ASSERT_EQ(result.groups[0].streams.size(), 20u);
  for (const StreamRecord& s : result.groups[0].streams) {
    EXPECT_EQ(s.error, "");
    EXPECT_EQ(s.texts.size(), 3u);
    EXPECT_GE(s.texts[0], s.sent);
    EXPECT_GE(s.ended, s.texts[2]);
  }
  EXPECT_EQ(server.connections, 20);
  EXPECT_EQ(server.requests, 20);
  EXPECT_GT(result.usage.client_cpu_seconds, 0);
}

TEST(LoadRun, KeptConnectionsAreUsedAgain) {
  EventServer server;
  const LoadResult result = run(server, {group("all", {.count = 20, .at_once = 2}, true)});
  for (const StreamRecord& s : result.groups[0].streams) EXPECT_EQ(s.error, "");
  EXPECT_EQ(server.requests, 20);
  EXPECT_EQ(server.connections, 2);
}

TEST(LoadRun, AnEndlessGroupLastsAsLongAsTheOthers) {
  EventServer server;
  const LoadResult result =
      run(server, {group("streams", {.at_once = 2}),
                   group("arrivals", {.count = 4, .period = std::chrono::milliseconds(30)})});
  EXPECT_EQ(result.groups[1].streams.size(), 4u);
  EXPECT_GT(result.groups[0].streams.size(), 2u);
  EXPECT_GE(result.wall, std::chrono::milliseconds(90));
  for (size_t i = 1; i < 4; ++i)  // open loop: not before its time
    EXPECT_GE(result.groups[1].streams[i].sent - result.groups[1].streams[0].sent,
              std::chrono::milliseconds(30) * static_cast<int>(i) - std::chrono::milliseconds(1));
}

TEST(LoadRun, DropsAndWrongCountsAreTold) {
  EventServer server;
  LoadGroup dropped = group("dropped", {.count = 1, .at_once = 1});
  dropped.requests[0].drop_after = 2;
  LoadGroup wrong = group("wrong", {.count = 1, .at_once = 1});
  wrong.requests[0].prompt_tokens = 6;
  const LoadResult result = run(server, {dropped, wrong});
  EXPECT_TRUE(result.groups[0].streams[0].dropped);
  EXPECT_EQ(result.groups[0].streams[0].error, "");
  EXPECT_NE(result.groups[1].streams[0].error.find("counted 5"), std::string::npos);
}

TEST(LoadRun, NobodyThereIsAnErrorOfTheStream) {
  auto client = StreamClient::make("127.0.0.1:1", std::chrono::seconds(5));
  ASSERT_TRUE(client.ok());
  ProcessMeter meter({});
  const LoadResult result = run_load(**client, meter, {group("all", {.count = 2, .at_once = 1})});
  for (const StreamRecord& s : result.groups[0].streams) EXPECT_NE(s.error, "");
}

}  // namespace
}  // namespace baton::load
