// What a client may cost the server: slow readers and writers, large answers, many connections.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/coordinator/gateway/server_fixture.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;

TEST_F(ServerTest, QuietEventStreamsGetComments) {
  start({.sse_keep_alive = 20ms});
  LoopbackClient client(server_->port());
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_TRUE(client.read_until(": keep-alive\n\n").ends_with(": keep-alive\n\n"));
  EXPECT_TRUE(client.read_until(": keep-alive\n\n").ends_with(": keep-alive\n\n"));
}

TEST_F(ServerTest, AReaderThatStopsIsCutOff) {
  start({.write_stall = 100ms, .output_bytes = 64 * 1024});
  LoopbackClient client(server_->port(), 4096);
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  EXPECT_TRUE(soon([&] {
    with(0, [](Exchange& e) { e.write(std::string(32 * 1024, 'x')); });
    return left_ == 1;
  }));
  EXPECT_TRUE(soon([&] { return server_->open_connections() == 0; }));
}

TEST_F(ServerTest, OutputIsBoundedWhateverTheStallTime) {
  start({.write_stall = 1h, .output_bytes = 64 * 1024});
  LoopbackClient client(server_->port(), 4096);
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  EXPECT_TRUE(soon([&] {
    with(0, [](Exchange& e) { e.write(std::string(64 * 1024, 'x')); });
    return left_ == 1;
  }));
}

// One event may be larger than what a stream may hold; a client that reads gets it, and what follows it.
TEST_F(ServerTest, OneLargeEventIsNoSlowReader) {
  start({.output_bytes = 16 * 1024});
  LoopbackClient client(server_->port(), 4096);
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  const std::string large(8 << 20, 'x');
  with(0, [&](Exchange& e) {
    for (const size_t bytes : {large.size(), size_t{10}, size_t{1000}}) e.write(large.substr(0, bytes));
    e.end();
  });
  const auto reply = client.read_reply();
  EXPECT_TRUE(reply.complete);
  EXPECT_EQ(reply.body.size(), std::string("data: 1\n\n").size() + large.size() + 1010);
  EXPECT_EQ(left_, 0);
}

TEST_F(ServerTest, LargeEventsAreBoundedTogether) {
  start({.write_stall = 1h, .output_bytes = 16 * 1024});
  LoopbackClient client(server_->port(), 4096);
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  EXPECT_TRUE(soon([&] {
    with(0, [](Exchange& e) { e.write(std::string(1 << 20, 'x')); });
    return left_ == 1;
  }));
}

// A byte now and then is progress, but not an answer.
TEST_F(ServerTest, AnAnswerThatIsReadDropByDropIsCutOff) {
  start({.write_stall = 200ms, .answer_bytes_per_second = 1 << 30});
  LoopbackClient client(server_->port(), 4096);
  client.send(LoopbackClient::post_text("/wait", ""));
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  with(0, [](Exchange& e) { e.answer({.body = std::string(32 << 20, 'x')}); });
  EXPECT_TRUE(soon([&] {
    (void)client.read_some();
    return server_->open_connections() == 0;
  }));
}

TEST_F(ServerTest, BodiesThatAreUnderWayAreBoundedTogether) {
  start({.all_body_bytes = 3000});
  const auto head = [](size_t bytes) {
    return "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(bytes) + "\r\n\r\n";
  };
  LoopbackClient first(server_->port()), second(server_->port());
  first.send(head(2001) + std::string(2000, 'a'));
  EXPECT_EQ(LoopbackClient(server_->port()).post("/tokenize", std::string(900, 'b')).status, 200);
  second.send(head(2000) + std::string(1500, 'b'));
  EXPECT_EQ(second.read_reply().status, 503);
  first.send("c");
  EXPECT_EQ(first.read_reply().body.size(), 2001u);
  EXPECT_EQ(LoopbackClient(server_->port()).post("/tokenize", std::string(2500, 'd')).status, 200)
      << "what is answered, refused or gone counts no more";
}

TEST_F(ServerTest, SlowHeadsAndBodiesAreCutOff) {
  start({.head_timeout = 500ms, .body_idle = 500ms, .keep_alive = 500ms});
  LoopbackClient head(server_->port());
  head.send("GET /hea");
  EXPECT_EQ(head.read_reply().status, 408);
  LoopbackClient body(server_->port());
  body.send("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(body.read_reply().status, 408);
  LoopbackClient idle(server_->port());
  EXPECT_TRUE(idle.at_end());
}

TEST_F(ServerTest, ABodyThatTricklesIsCutOff) {
  start({.body_idle = 100ms, .body_bytes_per_second = 100000});
  LoopbackClient client(server_->port());
  client.send("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
  for (int i = 0; i < 900 && refused_ == 0; ++i) {
    client.send("x");
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(refused_, 408) << "nobody refused it while it still sent";
  EXPECT_EQ(client.read_reply().status, 408);
}

TEST_F(ServerTest, ConnectionsAreLimited) {
  start({.max_connections = 3, .max_connections_per_ip = 2, .limit_loopback = true});
  LoopbackClient a(server_->port()), b(server_->port());
  EXPECT_EQ(a.get("/health").status, 200);
  EXPECT_EQ(b.get("/health").status, 200);
  {
    LoopbackClient c(server_->port());
    const auto reply = c.read_reply();
    EXPECT_EQ(reply.status, 503);
    EXPECT_EQ(reply.fields.at("retry-after"), "1");
    EXPECT_NE(reply.body.find("spec.gateway.limits.connectionsPerAddress "), std::string::npos) << reply.body;
  }
  a.close();
  ASSERT_TRUE(soon([&] { return server_->open_connections() == 1; }));
  LoopbackClient d(server_->port());
  EXPECT_EQ(d.get("/health").status, 200);
}

TEST_F(ServerTest, AllConnectionsTogetherAreLimited) {
  start({.max_connections = 1});
  LoopbackClient a(server_->port());
  EXPECT_EQ(a.get("/health").status, 200);
  LoopbackClient b(server_->port());
  const auto reply = b.read_reply();
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("spec.gateway.limits.connections "), std::string::npos) << reply.body;
}

// Behind a reverse proxy all users have its address.
TEST_F(ServerTest, AProxyMayHoldManyConnections) {
  start({.limit_loopback = true});
  std::vector<std::unique_ptr<LoopbackClient>> users;
  for (int i = 0; i < 100; ++i) users.push_back(std::make_unique<LoopbackClient>(server_->port()));
  EXPECT_EQ(users.back()->get("/health").status, 200);
}

TEST_F(ServerTest, SurvivesWithoutFileDescriptors) {
  start();
  LoopbackClient open(server_->port());
  EXPECT_EQ(open.get("/health").status, 200);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<std::unique_ptr<LoopbackClient>> clients;
  {
    // Room for the clients' own sockets, none for the server's side of them.
    LoopbackClient probe(server_->port());
    EXPECT_EQ(probe.get("/health").status, 200);
    const int highest = dup(0);
    ASSERT_GT(highest, 0);
    close(highest);
    const rlimit tight{.rlim_cur = static_cast<rlim_t>(highest) + 3, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
    for (int i = 0; i < 3; ++i) clients.push_back(std::make_unique<LoopbackClient>(server_->port()));
    EXPECT_TRUE(soon([&] { return refused_ == 503; }));
    EXPECT_EQ(open.get("/health").status, 200);
    clients.clear();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  }
  EXPECT_TRUE(soon([&] { return LoopbackClient(server_->port()).get("/health").status == 200; }));
}

}  // namespace
}  // namespace baton::coordinator
