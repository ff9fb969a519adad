// OpenAI's Responses: bodies read as chats, answers and streams as items.
#include <gmock/gmock.h>

#include "coordinator/gateway/responses_answer.h"
#include "coordinator/gateway/responses_request.h"
#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

using boost::json::value;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

boost::json::object chat(const std::string& body) {
  const auto got = responses_as_chat(boost::json::parse(body).as_object());
  EXPECT_TRUE(got) << got.error().message;
  return got ? got->body : boost::json::object();
}
std::string refusal(const std::string& body) {
  const auto got = responses_as_chat(boost::json::parse(body).as_object());
  return got ? "" : got.error().message;
}

TEST(ResponsesAsChat, ItemsAreMessages) {
  EXPECT_EQ(chat(R"({"input":"hi","max_output_tokens":9,"seed":3,"temperature":0.5})"),
            boost::json::parse(R"({"max_tokens":9,"seed":3,"temperature":0.5,
                "messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]})"));
  EXPECT_EQ(
      chat(
          R"({"instructions":"S","input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
      {"type":"reasoning","id":"r","summary":[],"content":[{"type":"reasoning_text","text":"Hm."}]},
      {"type":"message","id":"m","role":"assistant","status":"completed","content":[{"type":"output_text","text":"I look.","annotations":[]}]},
      {"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\":1}"},
      {"type":"function_call","call_id":"c2","name":"g","arguments":""},
      {"type":"function_call_output","call_id":"c1","output":"4"},
      {"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"5"}]},
      {"role":"user","content":"and?"}]})")
          .at("messages"),
      boost::json::parse(R"([{"role":"system","content":[{"type":"text","text":"S"}]},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":[{"type":"text","text":"I look."}],"reasoning_content":"Hm.","tool_calls":[
        {"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},
        {"id":"c2","type":"function","function":{"name":"g","arguments":""}}]},
      {"role":"tool","tool_call_id":"c1","content":"4","name":"f"},
      {"role":"tool","tool_call_id":"c2","content":[{"type":"text","text":"5"}],"name":"g"},
      {"role":"user","content":[{"type":"text","text":"and?"}]}])"));
}

TEST(ResponsesAsChat, ToolsFormatAndThinking) {
  const auto got = chat(
      R"({"input":"x","tools":[{"type":"function","name":"f","description":"d","strict":true,"parameters":{"type":"object"}}],
      "tool_choice":{"type":"function","name":"f"},"reasoning":{"effort":"none"},
      "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}},"verbosity":"low"}})");
  EXPECT_EQ(
      got.at("tools"),
      boost::json::parse(
          R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}])"));
  EXPECT_EQ(got.at("tool_choice"), boost::json::parse(R"({"type":"function","function":{"name":"f"}})"));
  EXPECT_EQ(
      got.at("response_format"),
      boost::json::parse(R"({"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}})"));
  EXPECT_EQ(got.at("chat_template_kwargs"),
            boost::json::parse(R"({"reasoning_effort":"none","enable_thinking":false})"));
}

TEST(ResponsesAsChat, WrongBodiesAreRefusedInWordsThatSayWhere) {
  const auto with = [](const std::string& item) { return refusal(R"({"input":[)" + item + "]}"); };
  EXPECT_THAT(refusal("{}"), HasSubstr("`input` must be"));
  EXPECT_THAT(refusal(R"({"input":7})"), HasSubstr("`input` must be"));
  EXPECT_THAT(refusal(R"({"input":[]})"), HasSubstr("`input` must be"));
  EXPECT_THAT(with("7"), HasSubstr("`input[0]` must be an object"));
  EXPECT_THAT(with(R"({"role":"tool","content":"x"})"), HasSubstr("`input[0].role`"));
  EXPECT_THAT(with(R"({"role":"user"})"), HasSubstr("`input[0].content` is missing"));
  EXPECT_THAT(with(R"({"role":"user","content":[{"type":"input_image"}]})"),
              HasSubstr("parts of type input_image"));
  EXPECT_THAT(with(R"({"role":"user","content":[{"type":"input_text"}]})"),
              HasSubstr("`input[0].content[0].text`"));
  EXPECT_THAT(with(R"({"type":"item_reference","id":"x"})"), HasSubstr("items of type item_reference"));
  EXPECT_THAT(with(R"({"type":"function_call","name":"f"})"), HasSubstr("`call_id` and `name`"));
  EXPECT_THAT(with(R"({"type":"function_call_output","call_id":"c"})"), HasSubstr("`call_id` and `output`"));
  const auto more = [](const std::string& fields) { return refusal(R"({"input":"x",)" + fields + "}"); };
  EXPECT_THAT(more(R"("max_output_tokens":0)"), HasSubstr("max_output_tokens"));
  EXPECT_THAT(more(R"("tools":[{"type":"web_search"}])"), HasSubstr("tools of type web_search"));
  EXPECT_THAT(more(R"("tools":[{"type":"function"}])"), HasSubstr("`tools[0].name`"));
  EXPECT_THAT(more(R"("tool_choice":{"type":"mcp"})"), HasSubstr("tool_choice"));
  EXPECT_THAT(more(R"("previous_response_id":"r")"), HasSubstr("nothing is kept here"));
  EXPECT_THAT(more(R"("conversation":"r")"), HasSubstr("nothing is kept here"));
  EXPECT_THAT(more(R"("background":true)"), HasSubstr("background"));
  EXPECT_THAT(more(R"("include":["message.output_text.logprobs"])"), HasSubstr("log probabilities"));
  EXPECT_THAT(more(R"("top_logprobs":1)"), HasSubstr("log probabilities"));
  EXPECT_EQ(more(R"("include":["reasoning.encrypted_content"],"store":true,"truncation":"auto")"), "");
}

constexpr const char* kTool =
    R"(,"tools":[{"type":"function","name":"look","parameters":{"type":"object"}}])";
constexpr const char* kAnswer =
    "<think>\nHm.\n</think>\n\nI look.\n<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": "
    "\"b\"}}</tool_call>";

class ResponsesTest : public GatewayTest {
 protected:
  ResponsesTest() { model_.reasoning_syntax = text::ReasoningSyntax::kThink; }
  ~ResponsesTest() override { stop(); }
  void answer(std::string_view text, FinishReason reason = FinishReason::kEndToken) {
    std::vector<TokenId> ids = bytes_of(text);
    if (reason == FinishReason::kEndToken) ids.push_back(kEnd);
    port_.set_script(ScriptedPort::tokens(ids, reason));
  }
  LoopbackClient::Reply post(const std::string& more) {
    return client().post("/v1/responses", R"({"model":"tiny","input":"hi")" + more + "}");
  }
  value response(const std::string& more = "") {
    const auto reply = post(more);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json(reply.body);
  }
  // The events of a stream; each is named as its type and has its number.
  static std::vector<value> numbered_events(const std::string& body) {
    std::vector<value> out;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string event = body.substr(at, end - at);
      const size_t data = event.find("\ndata: ");
      EXPECT_TRUE(event.starts_with("event: ") && data != std::string::npos) << event;
      out.push_back(json(event.substr(data + 7)));
      EXPECT_EQ(event.substr(7, data - 7), std::string(out.back().at("type").as_string()));
      EXPECT_EQ(out.back().at("sequence_number"), out.size() - 1);
      at = end + 2;
    }
    return out;
  }
};

TEST_F(ResponsesTest, AWholeAnswer) {
  answer("Yes.");
  start();
  const value got = response(R"(,"instructions":"S","metadata":{"a":"b"},"max_output_tokens":50)");
  EXPECT_EQ(got.at("object"), "response");
  EXPECT_EQ(got.at("status"), "completed");
  EXPECT_TRUE(got.at("error").is_null() && got.at("incomplete_details").is_null());
  EXPECT_EQ(got.at("model"), "tiny");
  EXPECT_EQ(got.at("instructions"), "S");
  EXPECT_EQ(got.at("metadata"), json(R"({"a":"b"})"));
  EXPECT_EQ(got.at("max_output_tokens"), 50);
  EXPECT_EQ(got.at("store"), false);
  ASSERT_EQ(got.at("output").as_array().size(), 1u);
  const value& message = got.at("output").at(0);
  EXPECT_EQ(message.at("type"), "message");
  EXPECT_EQ(message.at("status"), "completed");
  EXPECT_EQ(message.at("content"),
            json(R"([{"type":"output_text","text":"Yes.","annotations":[],"logprobs":[]}])"));
  EXPECT_EQ(got.at("usage").at("output_tokens"), 5);
  EXPECT_EQ(got.at("usage").at("input_tokens_details").at("cached_tokens"), 3);
  EXPECT_EQ(port_.last().request.stop.max_tokens, 50);
  EXPECT_EQ(record(0).endpoint, "responses");
}

TEST_F(ResponsesTest, ThoughtsTextAndCallsAreItems) {
  answer(kAnswer);
  start();
  const value output = response(kTool).at("output");
  ASSERT_EQ(output.as_array().size(), 3u);
  EXPECT_EQ(output.at(0).at("type"), "reasoning");
  EXPECT_EQ(output.at(0).at("content"), json(R"([{"type":"reasoning_text","text":"Hm."}])"));
  EXPECT_EQ(output.at(1).at("content").at(0).at("text"), "I look.");
  EXPECT_EQ(output.at(2).at("type"), "function_call");
  EXPECT_EQ(output.at(2).at("name"), "look");
  EXPECT_EQ(output.at(2).at("arguments"), "{\"a\": \"b\"}");
  EXPECT_EQ(output.at(2).at("call_id").as_string().size(), 9u);
}

TEST_F(ResponsesTest, AnAnswerThatWasCutOffSaysSo) {
  answer("Yes, n", FinishReason::kLength);
  start();
  const value got = response();
  EXPECT_EQ(got.at("status"), "incomplete");
  EXPECT_EQ(got.at("incomplete_details").at("reason"), "max_output_tokens");
  EXPECT_EQ(got.at("output").at(0).at("status"), "incomplete");
  EXPECT_EQ(numbered_events(post(R"(,"stream":true)").body).back().at("type"), "response.incomplete");
}

TEST_F(ResponsesTest, AStreamSaysTheSameInOrder) {
  answer(kAnswer);
  start();
  const value whole = response(kTool);
  const auto reply = post(std::string(kTool) + R"(,"stream":true)");
  EXPECT_TRUE(reply.complete);
  EXPECT_THAT(reply.body, Not(HasSubstr("[DONE]")));
  std::vector<std::string> order;
  std::vector<std::string> said(3);
  const auto events = numbered_events(reply.body);
  for (const value& event : events) {
    const std::string type(event.at("type").as_string());
    if (order.empty() || order.back() != type) order.push_back(type);
    const auto* index = event.as_object().if_contains("output_index");
    const size_t at = index ? static_cast<size_t>(index->as_int64()) : 0;
    if (const auto* delta = event.as_object().if_contains("delta")) said.at(at) += delta->as_string();
    for (const char* name : {"text", "arguments"}) {
      const auto* whole_text = event.as_object().if_contains(name);
      if (whole_text) {
        EXPECT_EQ(std::string(whole_text->as_string()), said.at(at)) << type;
      }
    }
  }
  EXPECT_THAT(said, ElementsAre("Hm.", "I look.", "{\"a\": \"b\"}"));
  const std::string added = "response.output_item.added", done = "response.output_item.done";
  const std::string begun = "response.content_part.added", ended = "response.content_part.done";
  EXPECT_THAT(order, ElementsAre("response.created", "response.in_progress", added, begun,
                                 "response.reasoning_text.delta", "response.reasoning_text.done", ended, done,
                                 added, begun, "response.output_text.delta", "response.output_text.done",
                                 ended, done, added, "response.function_call_arguments.delta",
                                 "response.function_call_arguments.done", done, "response.completed"));
  value last = events.back().at("response");
  EXPECT_EQ(last.at("usage"), whole.at("usage"));
  ASSERT_EQ(last.at("output").as_array().size(), 3u);
  for (size_t i = 0; i < 3; ++i) {  // ids are made of the request's
    for (const char* id : {"id", "call_id"}) {
      const auto* its = whole.at("output").at(i).as_object().if_contains(id);
      if (its) last.as_object()["output"].as_array()[i].as_object()[id] = *its;
    }
  }
  EXPECT_EQ(last.at("output"), whole.at("output"));
}

TEST_F(ResponsesTest, AStreamThatBreaksSaysSoAndDoesNotEnd) {
  port_.set_script([](const auto& s) {
    s.say(Started{ScriptedPort::verdict()});
    s.say(Tokens{{output('a')}, {}});
    s.say(Failed{absl::InternalError("the worker died"), {}, {}});
  });
  start();
  const auto reply = post(R"(,"stream":true)");
  EXPECT_FALSE(reply.complete);
  const value last = numbered_events(reply.body).back();
  EXPECT_EQ(last.at("type"), "response.failed");
  EXPECT_EQ(last.at("response").at("status"), "failed");
  EXPECT_EQ(last.at("response").at("error").at("message"), "the worker died");
  port_.set_script([](const auto& s) { s.say(Failed{absl::UnavailableError("gone"), {}, {}}); });
  const auto none = post("");
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(json(none.body).at("error").at("code"), "not_ready");
}

TEST(ResponsesAnswer, TheRestOfACallComesBeforeTheText) {
  const GenerationPlan plan{.endpoint = Endpoint::kResponses, .model = "m", .told = "\"a\":1"};
  const std::vector<text::ToolCallPiece> first = {{0, "f", "{\"a\": 1"}},
                                         rest = {{0, "", "}"}, {1, "g", "{}"}};
  ResponsesAnswer writer(plan, "id", 0);
  writer.part({.calls = first}, {}, nullptr);
  writer.part({.text = "Hi", .calls = rest}, {}, nullptr);
  writer.part({.finish_reason = "tool_calls"}, {}, nullptr);
  const std::string end = writer.end({}, {});
  const value output = boost::json::parse(end.substr(end.find("data: ") + 6)).at("response").at("output");
  ASSERT_EQ(output.as_array().size(), 3u);
  EXPECT_EQ(output.at(0).at("arguments"), "{\"a\": 1}");
  EXPECT_EQ(output.at(1).at("content").at(0).at("text"), "Hi");
  EXPECT_EQ(output.at(2).at("name"), "g");
  EXPECT_EQ(output.at(2).at("arguments"), "{}");
}

TEST_F(ResponsesTest, AWrongFormatIsToldByItsName) {
  start();
  const auto refused = post(R"(,"text":{"format":{"type":"xml"}})");
  EXPECT_EQ(refused.status, 400);
  const value error = json(refused.body).at("error");
  EXPECT_THAT(std::string(error.at("param").as_string()), testing::StartsWith("text.format"));
  EXPECT_THAT(std::string(error.at("message").as_string()), testing::StartsWith("`text.format"));
}

TEST_F(ResponsesTest, InputTokensAreCounted) {
  start();
  auto c = client();
  const auto reply = c.post("/v1/responses/input_tokens", R"({"model":"tiny","input":"hi"})");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(json(reply.body), json(R"({"object":"response.input_tokens","input_tokens":18})"));
  EXPECT_EQ(c.post("/v1/responses/input_tokens", R"({"model":"no","input":"hi"})").status, 404);
}

}  // namespace
}  // namespace baton::coordinator
