// Calls that do not end well: clients that leave, full queues, failures, no workers, draining.
#include <gmock/gmock.h>

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;
using boost::json::value;

// ---- clients that leave

TEST_F(GatewayTest, LeavingCancelsInUnaryAndStream) {
  start();
  for (const bool stream : {false, true}) {
    port_.forget();
    auto c = std::make_unique<LoopbackClient>(server_->port());
    c->send(LoopbackClient::post_text(
        "/v1/completions", std::string(R"({"prompt":"a","n":2,"stream":)") + (stream ? "true}" : "false}")));
    ASSERT_TRUE(soon([&] { return port_.count() == 2; }));
    port_.at(0).say(Started{ScriptedPort::verdict()});
    port_.at(0).say(Tokens{{output('h')}, {}});
    if (stream) c->read_until("data: ");
    c->close();
    EXPECT_TRUE(soon([&] { return port_.cancelled() == 2; }));
    EXPECT_TRUE(soon([&] { return server_->open_exchanges() == 0; }));
    port_.at(0).say(Tokens{{output('i')}, {}});  // late events hurt nobody
    EXPECT_EQ(record(stream ? 1 : 0).outcome, "client_left");
  }
  EXPECT_EQ(disconnects_, 2);
}

TEST_F(GatewayTest, ASlowReaderIsCutOffAndItsWorkCancelled) {
  start(64, 1, {.write_stall = 100ms, .output_bytes = 64 * 1024});
  LoopbackClient c(server_->port(), 4096);
  c.send(LoopbackClient::post_text("/v1/completions",
                                   R"({"prompt":"a","stream":true,"max_tokens":500,"logprobs":2})"));
  ASSERT_TRUE(soon([&] { return port_.count() == 1; }));
  port_.at(0).say(Started{ScriptedPort::verdict()});
  const std::vector<TokenOutput> many(500, output('x'));  // some 40 KB of JSON
  EXPECT_TRUE(soon([&] {
    port_.at(0).say(Tokens{many, {}});
    std::this_thread::sleep_for(5ms);
    return port_.cancelled() == 1;
  }));
}

TEST_F(GatewayTest, ShortBodiesAreReadAtOnceWhileFewRequestsAreServed) {
  start(64, 0);
  port_.set_script(ScriptedPort::tokens({'o'}));
  const auto body = [](size_t size) {
    return R"({"max_tokens":1,"prompt":")" + std::string(size, ' ') + "\"}";
  };
  EXPECT_EQ(client().post("/v1/completions", body(100)).status, 200);
  auto long_one = client(), busy = client();
  long_one.send(LoopbackClient::post_text("/v1/completions", body(5000)));
  EXPECT_TRUE(soon([&] { return pool_->waiting() == 1; }));
  set_in_flight(4);
  busy.send(LoopbackClient::post_text("/v1/completions", body(100)));
  EXPECT_TRUE(soon([&] { return pool_->waiting() == 2; }));
}

// Compiling takes milliseconds, for which the io thread has no time.
TEST_F(GatewayTest, ABodyThatAsksForAGrammarIsReadOnTheTextPool) {
  start(64, 0);
  auto c = client();
  c.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"a","guided_regex":"b"})"));
  EXPECT_TRUE(soon([&] { return pool_->waiting() == 1; }));
}

TEST_F(GatewayTest, LeavingWhileTheTextPoolIsBusySubmitsNothing) {
  start(64, 0);
  set_in_flight(4);
  {
    auto c = client();
    c.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"a"})"));
    ASSERT_TRUE(soon([&] { return pool_->waiting() == 1; }));
  }
  EXPECT_TRUE(soon([&] { return disconnects_ == 1; }));
  text_.emplace_back([this] { pool_->run(); });
  port_.set_script(ScriptedPort::tokens({'o'}));
  auto c = client();
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"b"})").status, 200);
  EXPECT_EQ(port_.count(), 1u);
}

// ---- refusals

TEST_F(GatewayTest, AFullTextPoolIs429) {
  start(1, 0);
  set_in_flight(4);
  auto a = client(), b = client();
  a.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"a"})"));
  ASSERT_TRUE(soon([&] { return pool_->waiting() == 1; }));
  const auto reply = b.post("/v1/completions", R"({"prompt":"b"})");
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.fields.at("retry-after"), "1");
  EXPECT_EQ(reply.fields.at("retry-after-ms"), "1000");
}

TEST_F(GatewayTest, FailuresBeforeTheFirstTokenHaveAStatus) {
  start();
  auto c = client();
  const std::vector<std::pair<absl::Status, int>> cases = {{absl::ResourceExhaustedError("queue full"), 429},
                                                           {absl::UnavailableError("no worker"), 503},
                                                           {absl::DeadlineExceededError("too late"), 504},
                                                           {absl::InternalError("oops"), 500},
                                                           {absl::InvalidArgumentError("bad"), 400}};
  for (const bool stream : {false, true}) {
    for (const auto& [status, code] : cases) {
      port_.set_script([&](const auto& s) { s.say(Failed{status, 1500ms, {.path = "fallback:x"}}); });
      const auto reply = c.post(
          "/v1/completions", std::string(R"({"prompt":"b","n":2,"stream":)") + (stream ? "true}" : "false}"));
      EXPECT_EQ(reply.status, code);
      EXPECT_EQ(json(reply.body).at("error").at("message"), value(std::string(status.message())));
      EXPECT_EQ(reply.fields.contains("retry-after-ms"), code == 429 || code == 503);
      if (code == 429) {
        EXPECT_EQ(reply.fields.at("retry-after"), "2");
        EXPECT_EQ(reply.fields.at("retry-after-ms"), "1500");
      }
      EXPECT_EQ(reply.fields.at("x-baton-path"), "fallback:x");
    }
  }
}

TEST_F(GatewayTest, AFailureAfterTheFirstTokenIsInTheStreamAndBreaksIt) {
  port_.set_script([](const auto& s) {
    s.say(Started{ScriptedPort::verdict()});
    s.say(Tokens{{output('h')}, {}});
    s.say(Failed{absl::InternalError("the worker died"), {}, {}});
  });
  start();
  auto c = client();
  const auto reply = c.post("/v1/completions", R"({"prompt":"b","stream":true})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_FALSE(reply.complete) << "the chunked body must not end cleanly";
  const auto chunks = events(reply.body);
  ASSERT_EQ(chunks.size(), 2u);
  EXPECT_EQ(chunks[1].at("error").at("message"), "the worker died");
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(c.at_end());
  EXPECT_EQ(record(0).outcome, "failed");
}

TEST_F(GatewayTest, OneFailedChoiceCancelsTheOthers) {
  start();
  auto c = client();
  c.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"b","n":3})"));
  ASSERT_TRUE(soon([&] { return port_.count() == 3; }));
  port_.at(1).say(Failed{absl::UnavailableError("gone"), {}, {}});
  EXPECT_EQ(c.read_reply().status, 503);
  EXPECT_TRUE(soon([&] { return port_.cancelled() == 3; }));
}

TEST_F(GatewayTest, OfManyChoicesAFewWaitForRoomAtATime) {
  start();
  const std::string body = R"({"prompt":["a","b","c","d","e","f","g","h","i","j"],"n":4,"max_tokens":1})";
  auto c = client();
  c.send(LoopbackClient::post_text("/v1/completions", body));
  ASSERT_TRUE(soon([&] { return port_.count() == 8; }));
  port_.at(5).say(Started{ScriptedPort::verdict()});  // at once: more may wait
  ASSERT_TRUE(soon([&] { return port_.count() > 8; }));
  for (size_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(soon([&] { return port_.count() > i; })) << i;
    ScriptedPort::tokens({'x'})(port_.at(i));
  }
  const auto reply = c.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(boost::json::parse(reply.body).at("choices").as_array().size(), 40u);
  EXPECT_EQ(port_.count(), 40u);
  for (size_t i = 0; i < 40; ++i)  // when the first has room the others get theirs
    EXPECT_EQ(port_.at(i).wait, i == 0 ? QueueWait::kBounded : QueueWait::kAllItsTime) << i;
  port_.forget();
  c.send(LoopbackClient::post_text("/v1/completions", body));
  ASSERT_TRUE(soon([&] { return port_.count() == 8; }));
  port_.at(0).say(Failed{absl::ResourceExhaustedError("waited too long"), std::chrono::seconds(1), {}});
  EXPECT_EQ(c.read_reply().status, 429);
  EXPECT_TRUE(soon([&] { return port_.cancelled() == 8; })) << port_.cancelled();
  EXPECT_EQ(port_.count(), 8u);
}

TEST_F(GatewayTest, NotReadyIs503) {
  status_->can_generate = false;
  status_->reason = "no decode worker";
  start();
  auto c = client();
  const auto reply = c.post("/v1/completions", R"({"prompt":"b"})");
  EXPECT_EQ(reply.status, 503);
  EXPECT_NE(reply.body.find("no decode worker"), std::string::npos);
  EXPECT_TRUE(reply.fields.contains("retry-after"));
  EXPECT_EQ(c.get("/health").status, 503);
  EXPECT_EQ(c.get("/ready").status, 503);
  EXPECT_EQ(c.get("/live").status, 200);
}

// A worker that has just come back is no reason to turn anybody away: the queue has its own deadline.
TEST_F(GatewayTest, WhileWorkersAreBeingPairedRequestsWait) {
  status_->can_generate = false;
  status_->connecting = true;
  start();
  auto c = client();
  c.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"b"})"));
  EXPECT_TRUE(soon([&] { return port_.count() == 1; }));
  auto probe = client();
  EXPECT_EQ(probe.get("/ready").status, 503);
}

TEST_F(GatewayTest, DrainingRefusesNewWork) {
  start();
  api_->begin_drain();
  auto c = client();
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a"})").status, 503);
  EXPECT_EQ(c.get("/ready").status, 503);
  EXPECT_EQ(c.get("/health").status, 200);
}

TEST_F(GatewayTest, ReadyWaitsForPoolsHealthDoesNot) {
  status_->awaited = "no worker of pool prefill has come up yet";
  start();
  auto c = client();
  const auto ready = c.get("/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(json(ready.body).at("reason"), "no worker of pool prefill has come up yet");
  EXPECT_EQ(c.get("/health").status, 200);
  port_.set_script(ScriptedPort::tokens({'o'}));
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","max_tokens":1})").status, 200);
}

}  // namespace
}  // namespace baton::coordinator
