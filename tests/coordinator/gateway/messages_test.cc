// Anthropic's Messages over HTTP: answers, streams and refusals in its shapes.
#include <gmock/gmock.h>

#include "coordinator/gateway/messages_answer.h"
#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

using boost::json::value;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kTool = R"(,"tools":[{"name":"look","input_schema":{"type":"object"}}])";
constexpr const char* kCall =
    "I look.\n<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b\"}}</tool_call>";

class MessagesTest : public GatewayTest {
 protected:
  MessagesTest() { model_.reasoning_syntax = text::ReasoningSyntax::kThink; }
  ~MessagesTest() override { stop(); }
  void answer(std::string_view text, FinishReason reason = FinishReason::kEndToken) {
    std::vector<TokenId> ids = bytes_of(text);
    if (reason == FinishReason::kEndToken) ids.push_back(kEnd);
    port_.set_script(ScriptedPort::tokens(ids, reason));
  }
  static std::string body(const std::string& more) {
    return R"({"model":"tiny","max_tokens":200,"messages":[{"role":"user","content":"hi"}])" + more + "}";
  }
  LoopbackClient::Reply post(const std::string& more, const std::string& path = "/v1/messages") {
    return client().post(path, body(more));
  }
  value message(const std::string& more = "") {
    const auto reply = post(more);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json(reply.body);
  }
  // The events of a stream; the name of each must be its type.
  static std::vector<value> named_events(const std::string& body) {
    std::vector<value> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string event = body.substr(at, end - at);
      const size_t data = event.find("\ndata: ");
      EXPECT_TRUE(event.starts_with("event: ") && data != std::string::npos) << event;
      out.push_back(json(event.substr(data + 7)));
      EXPECT_EQ(event.substr(7, data - 7), std::string(out.back().at("type").as_string()));
      at = end + 2;
    }
    return out;
  }
};

TEST_F(MessagesTest, AWholeAnswer) {
  answer("Yes.");
  start();
  const auto reply = post("");
  const value got = json(reply.body);
  EXPECT_EQ(got.at("type"), "message");
  EXPECT_EQ(got.at("role"), "assistant");
  EXPECT_EQ(got.at("model"), "tiny");
  EXPECT_EQ(got.at("content"), json(R"([{"type":"text","text":"Yes."}])"));
  EXPECT_EQ(got.at("stop_reason"), "end_turn");
  EXPECT_TRUE(got.at("stop_sequence").is_null());
  const int prompt = static_cast<int>(std::string("user:hi|assistant:").size());  // 3 of them were cached
  EXPECT_EQ(got.at("usage").at("input_tokens"), prompt - 3);
  EXPECT_EQ(got.at("usage").at("cache_read_input_tokens"), 3);
  EXPECT_EQ(got.at("usage").at("output_tokens"), 5);
  EXPECT_EQ(reply.fields.at("request-id"), reply.fields.at("x-request-id"));
  EXPECT_EQ(std::string(got.at("id").as_string()), "msg_" + reply.fields.at("request-id"));
  EXPECT_EQ(record(0).endpoint, "messages");
}

TEST_F(MessagesTest, WhyItEnded) {
  start();
  answer("Yes, no", FinishReason::kLength);
  EXPECT_EQ(message().at("stop_reason"), "max_tokens");
  const value stopped = message(R"(,"stop_sequences":["s,"])");
  EXPECT_EQ(stopped.at("content").at(0).at("text"), "Ye");
  EXPECT_EQ(stopped.at("stop_reason"), "stop_sequence");
  EXPECT_EQ(stopped.at("stop_sequence"), "s,");
  answer(kCall);
  EXPECT_EQ(message(kTool).at("stop_reason"), "tool_use");
}

// Clients ask for as much as large models can say: what fits is given, and told when it was not enough.
TEST_F(MessagesTest, MoreThanFitsIsAsMuchAsFits) {
  answer("Yes", FinishReason::kLength);
  start();
  auto c = client();
  const auto reply =
      c.post("/v1/messages", R"({"max_tokens":64000,"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(json(reply.body).at("stop_reason"), "model_context_window_exceeded") << reply.body;
  EXPECT_EQ(port_.last().request.stop.max_tokens, 600 - 18);
  const auto none = c.post("/v1/messages", R"({"max_tokens":1,"messages":[{"role":"user","content":")" +
                                               std::string(700, 'a') + R"("}]})");
  EXPECT_EQ(none.status, 400);
  EXPECT_THAT(none.body, HasSubstr("maximum context length"));
}

TEST_F(MessagesTest, ThoughtsTextAndCallsAreBlocks) {
  answer(std::string("<think>\nHm.\n</think>\n\n") + kCall);
  start();
  const value got = message(kTool);
  ASSERT_EQ(got.at("content").as_array().size(), 3u);
  EXPECT_EQ(got.at("content").at(0), json(R"({"type":"thinking","thinking":"Hm.","signature":""})"));
  EXPECT_EQ(got.at("content").at(1), json(R"({"type":"text","text":"I look."})"));
  EXPECT_EQ(got.at("content").at(2).at("name"), "look");
  EXPECT_EQ(got.at("content").at(2).at("input"), json(R"({"a":"b"})"));
  EXPECT_EQ(got.at("usage").at("output_tokens_details").at("thinking_tokens"), 14);
  const value without = message(std::string(kTool) + R"(,"thinking":{"type":"disabled"})");
  EXPECT_EQ(without.at("content").at(0).at("type"), "text");
}

TEST_F(MessagesTest, ACallThatWasCutOffIsLeftOut) {
  answer("<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b", FinishReason::kLength);
  start();
  const value got = message(kTool);
  EXPECT_TRUE(got.at("content").as_array().empty());
  EXPECT_EQ(got.at("stop_reason"), "max_tokens");
}

TEST_F(MessagesTest, AStreamSaysTheSameInOrder) {
  answer(std::string("<think>\nHm.\n</think>\n\n") + kCall);
  start();
  const value whole = message(kTool);
  const auto reply = post(std::string(kTool) + R"(,"stream":true)");
  EXPECT_TRUE(reply.complete);
  EXPECT_THAT(reply.fields.at("content-type"), HasSubstr("text/event-stream"));
  std::vector<std::string> order;
  boost::json::array blocks;
  std::string input;
  for (const value& event : named_events(reply.body)) {
    const std::string type(event.at("type").as_string());
    if (order.empty() || order.back() != type) order.push_back(type);
    if (type == "content_block_start") {
      EXPECT_EQ(event.at("index"), blocks.size());
      blocks.push_back(event.at("content_block"));
    } else if (type == "content_block_delta") {
      const auto& delta = event.at("delta").as_object();
      EXPECT_EQ(event.at("index"), blocks.size() - 1);
      for (const char* name : {"text", "thinking"})
        if (const value* more = delta.if_contains(name))
          blocks.back().as_object()[name].as_string() += more->as_string();
      if (const value* more = delta.if_contains("partial_json")) input += more->as_string();
    } else if (type == "message_delta") {
      EXPECT_EQ(event.at("delta").at("stop_reason"), "tool_use");
      EXPECT_EQ(event.at("usage").at("output_tokens"), whole.at("usage").at("output_tokens"));
    } else if (type == "message_start") {
      EXPECT_TRUE(event.at("message").at("content").as_array().empty());
      EXPECT_TRUE(event.at("message").at("stop_reason").is_null());
    }
  }
  EXPECT_EQ(blocks.at(2).at("input"), json("{}"));
  blocks.at(2).as_object()["input"] = json(input);
  blocks.at(2).as_object()["id"] = whole.at("content").at(2).at("id");  // made of the answer's
  EXPECT_EQ(value(blocks), whole.at("content"));
  const std::string start = "content_block_start", delta = "content_block_delta", stop = "content_block_stop";
  EXPECT_THAT(order, ElementsAre("message_start", start, delta, stop, start, delta, stop, start, delta, stop,
                                 "message_delta", "message_stop"));
}

// What ends a call may come together with text behind it, and with the next one.
TEST(MessagesAnswer, TheRestOfACallComesBeforeTheText) {
  const GenerationPlan plan{.endpoint = Endpoint::kMessages, .model = "m"};
  const std::vector<text::ToolCallPiece> first = {{0, "f", "{\"a\": 1"}},
                                         rest = {{0, "", "}"}, {1, "g", "{}"}};
  MessagesAnswer writer(plan, "id");
  std::string stream = writer.part({.calls = first}, {}, nullptr);
  stream += writer.part({.text = "Hi", .calls = rest}, {}, nullptr);
  stream += writer.part({.finish_reason = "tool_calls"}, {}, nullptr);
  std::vector<std::string> said;
  for (size_t at = 0; (at = stream.find("\ndata: ", at)) != std::string::npos;) {
    at += 7;
    const auto event = boost::json::parse(stream.substr(at, stream.find("\n", at) - at)).as_object();
    if (event.contains("content_block"))
      said.emplace_back(event.at("content_block").at("type").as_string());
    else if (event.at("type") == "content_block_delta")
      for (const char* name : {"text", "partial_json"})
        if (const value* text = event.at("delta").as_object().if_contains(name))
          said.emplace_back(std::to_string(event.at("index").as_int64()) + std::string(text->as_string()));
  }
  EXPECT_THAT(said, ElementsAre("tool_use", "0{\"a\": 1", "0}", "text", "1Hi", "tool_use", "2{}"));
}

TEST_F(MessagesTest, RefusalsHaveItsShape) {
  start();
  const auto error = [&](const LoopbackClient::Reply& reply) {
    const value got = json(reply.body);
    EXPECT_EQ(got.at("type"), "error");
    EXPECT_EQ(std::string(got.at("request_id").as_string()), reply.fields.at("request-id"));
    return std::string(got.at("error").at("type").as_string());
  };
  auto c = client();
  const auto wrong = c.post("/v1/messages", "{");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(error(wrong), "invalid_request_error");
  const auto model =
      c.post("/messages", R"({"model":"no","max_tokens":1,"messages":[{"role":"user","content":"x"}]})");
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(error(model), "not_found_error");
  port_.set_script([](const auto& s) { s.say(Failed{absl::UnavailableError("gone"), {}, {}}); });
  const auto none = post("");
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(error(none), "overloaded_error");
  EXPECT_TRUE(none.fields.contains("retry-after"));
  port_.set_script([](const auto& s) { s.say(Failed{absl::ResourceExhaustedError("full"), {}, {}}); });
  EXPECT_EQ(error(post("")), "rate_limit_error");
  port_.set_script([](const auto& s) { s.say(Failed{absl::InternalError("oh"), {}, {}}); });
  EXPECT_EQ(error(post("")), "api_error");
  const auto got = c.get("/v1/messages");
  EXPECT_EQ(got.status, 405);
  EXPECT_EQ(error(got), "invalid_request_error");
  auto large = client();
  large.send("POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n");
  const auto refused = large.read_reply();
  EXPECT_EQ(refused.status, 413);
  EXPECT_EQ(error(refused), "request_too_large");
}

TEST_F(MessagesTest, AStreamThatBreaksSaysSoAndDoesNotEnd) {
  port_.set_script([](const auto& s) {
    s.say(Started{ScriptedPort::verdict()});
    s.say(Tokens{{output('a')}, {}});
    s.say(Failed{absl::InternalError("the worker died"), {}, {}});
  });
  start();
  const auto reply = post(R"(,"stream":true)");
  EXPECT_EQ(reply.status, 200);
  EXPECT_FALSE(reply.complete);
  const auto events = named_events(reply.body);
  EXPECT_EQ(events.back().at("type"), "error");
  EXPECT_EQ(events.back().at("error").at("type"), "api_error");
  EXPECT_THAT(reply.body, Not(HasSubstr("message_stop")));
}

TEST_F(MessagesTest, WhoMayNotIsToldInItsShape) {
  admit_ = [](RouteRole, HttpRequest& request) -> std::optional<ApiError> {
    if (request.field("x-api-key") == "k") return std::nullopt;
    return ApiError{.status = 401, .message = "no key"};
  };
  answer("Yes.");
  start();
  auto c = client();
  const auto reply = c.post("/v1/messages", body(""));
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(json(reply.body).at("error").at("type"), "authentication_error");
  auto other = client();
  EXPECT_EQ(other.post("/v1/messages", body(""), "x-api-key: k\r\n").status, 200);
}

TEST_F(MessagesTest, ItsClientsCanListTheModels) {
  start();
  auto c = client();
  const value list = json(c.get("/v1/models").body);
  EXPECT_EQ(list.at("first_id"), "tiny");
  EXPECT_EQ(list.at("last_id"), "org/tiny");
  EXPECT_EQ(list.at("has_more"), false);
  const value& model = list.at("data").at(0);
  EXPECT_EQ(model.at("type"), "model");
  EXPECT_EQ(model.at("display_name"), "tiny");
  EXPECT_EQ(model.at("created_at"), "2023-11-14T22:13:20Z");
}

TEST_F(MessagesTest, TokensAreCounted) {
  start();
  auto c = client();
  const auto count = [&](const std::string& body) {
    const auto reply = c.post("/v1/messages/count_tokens", body);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json(reply.body).at("input_tokens");
  };
  EXPECT_EQ(count(R"({"model":"tiny","messages":[{"role":"user","content":"hi"}]})"),
            18);  // user:hi|assistant:
  EXPECT_EQ(count(R"({"system":"S","messages":[{"role":"user","content":"hi"}],"tools":[]})"), 27);
  EXPECT_EQ(count(body(kTool)), 25) << "tools count";
  EXPECT_EQ(count(R"({"messages":[{"role":"user","content":")" + std::string(5000, 'a') + R"("}]})"), 5016)
      << "more than fits is counted, too";
  EXPECT_EQ(c.post("/v1/messages/count_tokens", R"({"messages":[]})").status, 400);
  EXPECT_EQ(
      c.post("/v1/messages/count_tokens", R"({"model":"no","messages":[{"role":"user","content":"x"}]})")
          .status,
      404);
  EXPECT_EQ(record(0).endpoint, "count_tokens");
  EXPECT_EQ(port_.count(), 0u);
}

}  // namespace
}  // namespace baton::coordinator
