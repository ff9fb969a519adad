#include "coordinator/gateway/http_server.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/cat.h"
#include "tests/coordinator/gateway/raw_requests.h"
#include "tests/coordinator/gateway/server_fixture.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;

TEST_F(ServerTest, AnswersAndKeepsTheConnection) {
  start();
  LoopbackClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    const auto reply = client.get("/health");
    EXPECT_EQ(reply.status, 200);
    EXPECT_EQ(reply.body, "{}");
    EXPECT_EQ(reply.fields.at("connection"), "keep-alive");
    EXPECT_EQ(reply.fields.at("content-type"), "application/json");
    EXPECT_EQ(reply.fields.at("x-request-id").size(), 32u);
    EXPECT_EQ(reply.fields.at("date"), "Thu, 01 Jan 1970 00:00:00 GMT");
  }
  EXPECT_EQ(client.post("/tokenize", "abc").body, "abc");
  EXPECT_EQ(client.get("/below/x%2Fy?z=1").body, "/below/x%2Fy?z=1");
  EXPECT_EQ(client.get("/below/").status, 404);
}

TEST_F(ServerTest, ErrorsOfRouting) {
  start();
  LoopbackClient client(server_->port());
  const auto missing = client.get("/nope");
  EXPECT_EQ(missing.status, 404);
  EXPECT_NE(missing.body.find("\"error\":{\"message\":\"no such path: /nope\""), std::string::npos)
      << missing.body;
  const auto method = client.get("/tokenize");
  EXPECT_EQ(method.status, 405);
  EXPECT_EQ(method.fields.at("allow"), "POST");
  client.send("GET /health HTTP/1.1\r\nHost: a\r\nX-Forbid: 1\r\n\r\n");
  EXPECT_EQ(client.read_reply().status, 403);
  EXPECT_EQ(client.post("/drop", "").status, 500);
  EXPECT_EQ(client.get("/health").status, 200);
}

TEST_F(ServerTest, HeadHasNoBody) {
  start();
  LoopbackClient client(server_->port());
  client.send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
  const auto reply = client.read_reply(true);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.fields.at("content-length"), "2");
  EXPECT_EQ(client.get("/health").body, "{}");
}

TEST_F(ServerTest, RequestIdsAndFieldValues) {
  start();
  LoopbackClient client(server_->port());
  client.send("GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: my.id_1-2\r\n\r\n");
  EXPECT_EQ(client.read_reply().fields.at("x-request-id"), "my.id_1-2");
  client.send("GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: not ok\r\n\r\n");
  EXPECT_EQ(client.read_reply().fields.at("x-request-id").size(), 32u);
  const auto reply = client.get("/field");
  EXPECT_EQ(reply.fields.at("x-y"), "a__evil: 1");
  EXPECT_FALSE(reply.fields.contains("evil"));
}

TEST_F(ServerTest, Http10IsAnsweredAndClosed) {
  start();
  LoopbackClient client(server_->port());
  client.send("GET /health HTTP/1.0\r\n\r\n");
  const auto reply = client.read_reply();
  EXPECT_EQ(reply.body, "{}");
  EXPECT_EQ(reply.fields.at("connection"), "close");
  EXPECT_TRUE(client.at_end());
  LoopbackClient stream(server_->port());
  stream.send("GET /stream HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  with(0, [](Exchange& e) {
    e.write("data: 2\n\n");
    e.end();
  });
  const auto text = stream.read_reply();
  EXPECT_FALSE(text.fields.contains("transfer-encoding"));
  EXPECT_EQ(text.body, "data: 1\n\ndata: 2\n\n");
}

TEST_F(ServerTest, ConnectionCloseAndExpectContinue) {
  start();
  LoopbackClient client(server_->port());
  client.send(
      "POST /tokenize HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: "
      "2\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("ok");
  EXPECT_EQ(client.read_reply().body, "ok");
  EXPECT_TRUE(client.at_end());
  LoopbackClient old(server_->port());  // HTTP/1.0 knows no interim answers
  old.send("POST /tokenize HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  old.send("ok");
  EXPECT_TRUE(old.read_until("\r\n").starts_with("HTTP/1.1 200"));
}

// The whole table over real sockets: the status the check says is the status on the wire, and the server
// lives on.
TEST_F(ServerTest, RawRequests) {
  start();
  for (const auto& c : raw_requests()) {
    if (c.verdicts[0] == 200 || c.bytes.empty()) continue;
    LoopbackClient client(server_->port());
    client.send(c.bytes);
    if (c.verdicts[0] == 0) client.half_close();
    const auto reply = client.read_reply();
    EXPECT_EQ(reply.status, c.verdicts[0] == 0 ? 400 : c.verdicts[0]) << c.name;
    EXPECT_EQ(reply.fields.at("connection"), "close") << c.name;
    EXPECT_NE(reply.body.find("\"code\":\"malformed_http\""), std::string::npos) << c.name;
    EXPECT_TRUE(client.at_end()) << c.name;
  }
  EXPECT_EQ(refused_.load() / 100, 4);
  EXPECT_EQ(LoopbackClient(server_->port()).get("/health").status, 200);
}

// What the check lets through, Beast must let through too.
TEST_F(ServerTest, CleanRawRequestsReachARoute) {
  start();
  for (const auto& c : raw_requests()) {
    if (c.verdicts != std::vector<int>{200}) continue;
    LoopbackClient client(server_->port());
    client.send(c.bytes);
    const auto reply = client.read_reply();
    EXPECT_TRUE(reply.status == 200 || reply.status == 404 || reply.status == 405)
        << c.name << ": " << reply.status << reply.body;
  }
}

// The value of Access-Control-Allow-Origin of the answer to that request of a page of `origin`; "" without
// it.
std::string readable_by(LoopbackClient& client, const std::string& request_line, const std::string& origin) {
  client.send(request_line + " HTTP/1.1\r\nHost: a\r\nOrigin: " + origin +
              "\r\nContent-Length: 0\r\nAccess-Control-Request-Method: POST\r\n\r\n");
  const auto fields = client.read_reply().fields;
  const auto found = fields.find("access-control-allow-origin");
  if (found == fields.end()) return "";
  EXPECT_EQ(fields.at("vary"), "Origin");
  return found->second;
}

TEST_F(ServerTest, PagesOfListedOriginsMayReadAnswers) {
  start({.allowed_origins = {"https://chat.example", "http://localhost:3000"}});
  LoopbackClient client(server_->port());
  const std::string page = "https://chat.example";
  EXPECT_EQ(readable_by(client, "GET /health", page), page);
  EXPECT_EQ(readable_by(client, "GET /health", "http://localhost:3000"), "http://localhost:3000");
  EXPECT_EQ(readable_by(client, "POST /drop", page), page) << "errors too";
  EXPECT_EQ(readable_by(client, "GET /no/such", page), page) << "404";
  EXPECT_EQ(readable_by(client, "POST /health", page), page) << "405";
  for (const char* other : {"https://chat.example.evil", "https://evil", "http://chat.example", "null"})
    EXPECT_EQ(readable_by(client, "GET /health", other), "") << other;
  EXPECT_EQ(client.get("/health").fields.count("access-control-allow-origin"), 0u) << "of the request before";
  for (const char* operators : {"GET /operators", "GET /operators/", "POST /operators", "OPTIONS /operators"})
    EXPECT_EQ(readable_by(client, operators, page), "") << operators;
  LoopbackClient stream(server_->port());
  stream.send("GET /stream HTTP/1.1\r\nHost: a\r\nOrigin: " + page + "\r\n\r\n");
  EXPECT_NE(stream.read_until("data: 1").find("access-control-allow-origin: " + page + "\r\n"),
            std::string::npos);
}

TEST_F(ServerTest, APreflightIsToldWhatAPathTakes) {
  start({.allowed_origins = {"*"}});
  LoopbackClient client(server_->port());
  const auto preflight = [&](const std::string& path, const std::string& fields) {
    client.send("OPTIONS " + path + " HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\n" + fields + "\r\n");
    return client.read_until("\r\n\r\n");
  };
  const std::string asks = "Access-Control-Request-Method: POST\r\n";
  const std::string head = preflight("/tokenize", asks);
  for (const char* wish : {"HTTP/1.1 204 No Content\r\n", "access-control-allow-origin: https://a\r\n",
                           "access-control-allow-methods: POST\r\n",
                           "access-control-allow-headers: authorization, content-type,",
                           "access-control-max-age: ", "vary: Origin\r\n", "connection: keep-alive\r\n"})
    EXPECT_NE(head.find(wish), std::string::npos) << wish << "\n" << head;
  EXPECT_EQ(head.find("content-length"), std::string::npos) << head;
  EXPECT_EQ(head.find("content-type:"), std::string::npos) << head;
  EXPECT_NE(preflight("/health", asks).find("access-control-allow-methods: GET\r\n"), std::string::npos);
  EXPECT_NE(preflight("/no/such", asks).find("HTTP/1.1 404 "), std::string::npos);
}

TEST_F(ServerTest, WithoutAListNothingIsSaidOfOrigins) {
  start();
  LoopbackClient client(server_->port());
  EXPECT_EQ(readable_by(client, "GET /health", "https://a"), "");
  client.send(
      "OPTIONS /tokenize HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\n"
      "Access-Control-Request-Method: POST\r\n\r\n");
  const auto reply = client.read_reply();
  EXPECT_EQ(reply.status, 405);
  EXPECT_EQ(reply.fields.count("vary"), 0u);
}

// Some clients end a body with a CRLF that its length does not count.
TEST_F(ServerTest, AnEmptyLineBetweenRequestsIsSkipped) {
  start();
  LoopbackClient client(server_->port());
  client.send("POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}\r\n" +
              LoopbackClient::post_text("/tokenize", "next"));
  EXPECT_EQ(client.read_reply().body, "{}");
  EXPECT_EQ(client.read_reply().body, "next");
  client.send("\r\n");
  client.half_close();
  EXPECT_TRUE(client.at_end()) << "that is no half of a request";
}

// Whoever in front of us does not see the body of a GET takes it for the next request: there is none.
TEST_F(ServerTest, TheBodyOfAGetIsDroppedAndTheConnectionEnds) {
  start();
  LoopbackClient client(server_->port());
  const std::string smuggled = "GET /below/me HTTP/1.1\r\nHost: a\r\n\r\n";
  client.send("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(smuggled.size()) +
              "\r\n\r\n" + smuggled + smuggled);
  const auto reply = client.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "{}");
  EXPECT_EQ(reply.fields.at("connection"), "close");
  EXPECT_TRUE(client.at_end());
}

TEST_F(ServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  LoopbackClient client(server_->port());
  client.send(LoopbackClient::post_text("/wait", "") +
              "GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  with(0, [](Exchange& e) { e.answer({.body = "late"}); });
  EXPECT_EQ(client.read_reply().body, "late");
  EXPECT_EQ(client.read_reply().body, "{}");
  EXPECT_EQ(client.read_reply().body, "root");
}

// Behind an answer its connection looks at what came meanwhile in a turn of its own; bytes that arrive just
// before that turn belong behind them.
TEST_F(ServerTest, PipelinedBytesAreReadInTheOrderTheyCame) {
  start();
  LoopbackClient client(server_->port());
  client.send(LoopbackClient::post_text("/wait", "") + "GET /hea");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  server_->post([&] {
    client.send("lth HTTP/1.1\r\nHost: a\r\n\r\n");
    // With this queued, the thread looks at the sockets once without waiting: the bytes are next behind it.
    server_->post([&] { open_[0]->answer({.body = "first"}); });
  });
  EXPECT_EQ(client.read_reply().body, "first");
  const auto second = client.read_reply();
  EXPECT_EQ(second.status, 200) << second.body;
  EXPECT_EQ(second.body, "{}");

  LoopbackClient cut(server_->port());  // and so does the end
  cut.send(LoopbackClient::post_text("/wait", "") + "GET /hea");
  ASSERT_TRUE(soon([&] { return kept() == 2; }));
  server_->post([&] {
    cut.half_close();
    server_->post([&] { open_[1]->answer({.body = "whole"}); });
  });
  EXPECT_EQ(cut.read_reply().body, "whole");
  EXPECT_EQ(cut.read_reply().status, 400);
}

TEST_F(ServerTest, TooMuchBehindAnOpenRequestEndsIt) {
  start({.early_bytes = 1000});
  LoopbackClient client(server_->port());
  client.send(LoopbackClient::post_text("/wait", "") + std::string(5000, 'x'));
  EXPECT_TRUE(soon([&] { return left_ == 1; }));
}

TEST_F(ServerTest, AClientThatLeavesIsSeenAtOnce) {
  start();
  const std::string requests[] = {LoopbackClient::post_text("/wait", ""),
                                  "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
                                  "POST /wait HTTP/1.0\r\nContent-Length: 0\r\n\r\n"};
  for (int kind = 0; kind < 5; ++kind) {
    LoopbackClient client(server_->port());
    client.send(requests[kind / 2]);
    ASSERT_TRUE(soon([&] { return kept() == static_cast<size_t>(kind) + 1; }));
    EXPECT_EQ(left_, kind);
    if (kind == 1 || kind == 3) {
      client.reset();
    } else if (kind == 4) {
      client.half_close();  // HTTP/1.0: nothing can be sent that would not be the answer
    } else {
      if (kind == 2) client.read_until("data: 1\n\n");
      client.close();
    }
    EXPECT_TRUE(soon([&] { return left_ == kind + 1; })) << kind;
    EXPECT_TRUE(soon([&] { return server_->open_exchanges() == 0 && server_->open_connections() == 0; }));
    with(static_cast<size_t>(kind), [](Exchange& e) { e.answer({.body = "nobody reads this"}); });
  }
}

// shutdown(SHUT_WR) behind the last request: all of them are answered, then the connection is closed.
TEST_F(ServerTest, AClientThatSaysNoMoreIsAnswered) {
  start({.sse_keep_alive = 20ms});
  LoopbackClient client(server_->port());
  client.send(LoopbackClient::post_text("/wait", "") + "GET /health HTTP/1.1\r\nHost: a\r\n\r\n" +
              LoopbackClient::post_text("/wait", ""));
  client.half_close();
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\n";
  EXPECT_EQ(client.read_until(interim), interim);
  EXPECT_EQ(client.read_until(interim), interim) << "asked again: it may leave later";
  with(0, [](Exchange& e) { e.answer({.body = "late"}); });
  EXPECT_EQ(client.read_reply().body, "late");
  EXPECT_EQ(client.read_reply().body, "{}");
  ASSERT_TRUE(soon([&] { return kept() == 2; }));
  with(1, [](Exchange& e) { e.answer({.body = "last"}); });
  EXPECT_EQ(client.read_reply().body, "last");
  EXPECT_TRUE(client.at_end());

  LoopbackClient stream(server_->port());
  stream.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  stream.half_close();
  ASSERT_TRUE(soon([&] { return kept() == 3; }));
  stream.read_until("\n:\n\n");
  with(2, [](Exchange& e) {
    e.write("data: 2\n\n");
    e.end();
  });
  EXPECT_TRUE(stream.read_until("0\r\n\r\n").ends_with("data: 2\n\n\r\n0\r\n\r\n"));
  EXPECT_TRUE(stream.at_end());

  LoopbackClient cut(server_->port());
  cut.send(LoopbackClient::post_text("/wait", "") + "GET /health HTT");
  cut.half_close();
  ASSERT_TRUE(soon([&] { return kept() == 4; }));
  with(3, [](Exchange& e) { e.answer({.body = "whole"}); });
  EXPECT_EQ(cut.read_reply().body, "whole");
  EXPECT_EQ(cut.read_reply().status, 400);
  EXPECT_TRUE(cut.at_end());
  EXPECT_EQ(left_, 0);
  EXPECT_TRUE(soon([&] { return server_->open_connections() == 0; }));
}

// It says no more, and goes later: nothing comes from it then, so it is asked now and then.
TEST_F(ServerTest, AClientThatSaysNoMoreAndLeavesLaterIsSeen) {
  start({.sse_keep_alive = 20ms});
  for (const std::string& request :
       {LoopbackClient::post_text("/wait", ""), std::string("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")}) {
    const int before = left_;
    LoopbackClient client(server_->port());
    client.send(request);
    client.half_close();
    client.read_until(request[0] == 'P' ? "Continue\r\n\r\n" : "\n:\n\n");
    EXPECT_EQ(left_, before);
    client.close();
    EXPECT_TRUE(soon([&] { return left_ == before + 1; }));
  }
  EXPECT_TRUE(soon([&] { return server_->open_exchanges() == 0 && server_->open_connections() == 0; }));
}

TEST_F(ServerTest, StreamsAreChunkedAndCanBreak) {
  start();
  LoopbackClient client(server_->port());
  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  with(0, [](Exchange& e) {
    e.write("data: 2\n\n");
    e.end();
  });
  const auto whole = client.read_reply();
  EXPECT_EQ(whole.body, "data: 1\n\ndata: 2\n\n");
  EXPECT_TRUE(whole.complete);
  EXPECT_EQ(client.get("/health").status, 200);

  client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(soon([&] { return kept() == 2; }));
  with(1, [](Exchange& e) {
    e.write("data: error\n\n");
    e.abort();
  });
  const auto broken = client.read_reply();
  EXPECT_EQ(broken.body, "data: 1\n\ndata: error\n\n");
  EXPECT_FALSE(broken.complete);
  EXPECT_TRUE(client.at_end());
  EXPECT_EQ(left_, 0);
}

TEST_F(ServerTest, DrainFinishesWhatIsOpen) {
  start();
  LoopbackClient idle(server_->port()), busy(server_->port());
  EXPECT_EQ(idle.get("/health").status, 200);
  busy.send(LoopbackClient::post_text("/wait", ""));
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  server_->begin_drain();
  EXPECT_TRUE(idle.at_end());
  EXPECT_EQ(LoopbackClient(server_->port()).get("/health").status, 0);
  EXPECT_EQ(server_->open_exchanges(), 1u);
  with(0, [](Exchange& e) { e.answer({.body = "done"}); });
  const auto reply = busy.read_reply();
  EXPECT_EQ(reply.body, "done");
  EXPECT_EQ(reply.fields.at("connection"), "close");
  EXPECT_EQ(left_, 0);
  busy.close();
  EXPECT_TRUE(soon([&] { return server_->open_connections() == 0; }));
}

TEST_F(ServerTest, StopEndsOpenExchanges) {
  start();
  LoopbackClient client(server_->port());
  client.send(LoopbackClient::post_text("/wait", ""));
  ASSERT_TRUE(soon([&] { return kept() == 1; }));
  stop();
  EXPECT_EQ(left_, 1);
  EXPECT_TRUE(client.at_end());
}

TEST_F(ServerTest, TurnsAtTheStartWhenWokenAndWhenDue) {
  std::atomic<int> turns = 0;
  std::atomic<bool> due_soon = false;
  turn_ = [&](Instant now) {
    ++turns;
    return due_soon ? now + 1ms : kNever;
  };
  start();
  EXPECT_TRUE(soon([&] { return turns == 1; }));
  server_->wake();
  EXPECT_TRUE(soon([&] { return turns == 2; }));
  due_soon = true;
  server_->wake();
  EXPECT_TRUE(soon([&] { return turns > 5; }));
  stop();
}

// Posts from many threads: a wake that finds another one under way must not be lost.
TEST_F(ServerTest, NoWakeIsLost) {
  std::atomic<int> posted = 0, seen = 0;
  turn_ = [&](Instant) {
    seen = posted.load();
    return kNever;
  };
  start();
  for (int round = 0; round < 200; ++round) {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        ++posted;
        server_->wake();
      });
    threads.clear();
    ASSERT_TRUE(soon([&] { return seen == posted; })) << "round " << round;
  }
  stop();
}

TEST_F(ServerTest, PortInUseAndBadAddress) {
  start();
  const auto again =
      HttpServer::listen({.port = server_->port()}, {},
                         {.clock = &clock_, .random = [] { return 0; }, .unix_time = [] { return 0; }});
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(std::string(again.status().message()).find("in use"), std::string::npos);
  const auto bad =
      HttpServer::listen({.address = "nowhere"}, {},
                         {.clock = &clock_, .random = [] { return 0; }, .unix_time = [] { return 0; }});
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
}

// A body that is not wanted is not waited for, and its sender is not told to go on.
TEST_F(ServerTest, WhoMayNotIsToldBeforeTheBody) {
  start();
  for (const char* more : {"", "Expect: 100-continue\r\n"}) {
    LoopbackClient client(server_->port());
    client.send(cat("POST /tokenize HTTP/1.1\r\nHost: a\r\nX-Forbid: 1\r\nContent-Length: 1000000\r\n", more,
                    "\r\n", *more == 0 ? "the beginning" : ""));
    const std::string head = client.read_until("\r\n");
    EXPECT_EQ(head, "HTTP/1.1 403 Forbidden\r\n");
    EXPECT_EQ(refused_, 403);
    EXPECT_NE(client.read_until("not for you").find("connection: close"), std::string::npos);
  }
  // One that is complete costs nothing: the connection goes on.
  LoopbackClient client(server_->port());
  EXPECT_EQ(client.post("/tokenize", "body", "X-Forbid: 1\r\n").status, 403);
  EXPECT_EQ(client.post("/tokenize", "body").body, "body");
}

}  // namespace
}  // namespace baton::coordinator
