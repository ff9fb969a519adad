// Tools over HTTP: offered through the template, calls told in OpenAI's shapes, refused where nothing would
// come of them.
#include <gmock/gmock.h>

#include "tests/coordinator/gateway/gateway_fixture.h"
#include "tests/text/byte_model.h"

namespace baton::coordinator {
namespace {

using boost::json::value;
using ::testing::HasSubstr;

constexpr const char* kTools =
    R"("tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object"}}}])";
constexpr const char* kAnswer =
    "Wait.\n<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b\"}}</tool_call>\n"
    "<tool_call>{\"name\": \"go\", \"arguments\": {}}</tool_call>";

class ToolsTest : public GatewayTest {
 protected:
  void answer(std::string_view text, FinishReason reason = FinishReason::kEndToken) {
    std::vector<TokenId> ids = bytes_of(text);
    if (reason == FinishReason::kEndToken) ids.push_back(kEnd);
    port_.set_script(ScriptedPort::tokens(ids, reason));
  }
  LoopbackClient::Reply chat(const std::string& more) {
    auto c = client();
    return c.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}],)" + more + "}");
  }
  value choice(const std::string& more) {
    const auto reply = chat(more);
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json(reply.body).at("choices").at(0);
  }
};

TEST_F(ToolsTest, CallsOfAWholeAnswer) {
  answer(kAnswer);
  start();
  const value got = choice(kTools);
  EXPECT_EQ(got.at("finish_reason"), "tool_calls");
  const value& message = got.at("message");
  EXPECT_EQ(message.at("content"), "Wait.");
  ASSERT_EQ(message.at("tool_calls").as_array().size(), 2u);
  const value& first = message.at("tool_calls").at(0);
  EXPECT_EQ(first.at("type"), "function");
  EXPECT_EQ(first.at("id").as_string().size(), 9u);
  EXPECT_NE(first.at("id"), message.at("tool_calls").at(1).at("id"));
  EXPECT_EQ(first.at("function"), json(R"({"name":"look","arguments":"{\"a\": \"b\"}"})"));
  EXPECT_EQ(message.at("tool_calls").at(1).at("function"), json(R"({"name":"go","arguments":"{}"})"));
}

TEST_F(ToolsTest, OnlyACallMeansNoContent) {
  answer("<tool_call>{\"name\": \"go\"}</tool_call>");
  start();
  EXPECT_TRUE(choice(kTools).at("message").at("content").is_null());
}

TEST_F(ToolsTest, CallsOfAStream) {
  answer(kAnswer);
  start();
  const auto reply = chat(std::string(kTools) + R"(,"stream":true)");
  ASSERT_EQ(reply.status, 200) << reply.body;
  std::string content, finish;
  std::vector<std::string> names, arguments;
  for (const value& event : events(reply.body)) {
    const value& one = event.at("choices").at(0);
    const auto& delta = one.at("delta").as_object();
    if (const value* text = delta.if_contains("content")) content += text->as_string();
    if (one.at("finish_reason").is_string()) finish = one.at("finish_reason").as_string();
    if (!delta.contains("tool_calls")) continue;
    for (const value& call : delta.at("tool_calls").as_array()) {
      const auto index = call.at("index").to_number<size_t>();
      if (index == names.size()) {  // the first piece: id, type and name
        EXPECT_EQ(call.at("id").as_string().size(), 9u);
        EXPECT_EQ(call.at("type"), "function");
        names.emplace_back(call.at("function").at("name").as_string());
        arguments.emplace_back();
      } else {
        EXPECT_FALSE(call.as_object().contains("id"));
        EXPECT_FALSE(call.at("function").as_object().contains("name"));
      }
      ASSERT_EQ(index + 1, names.size());
      arguments[index] += call.at("function").at("arguments").as_string();
    }
  }
  EXPECT_EQ(content, "Wait.");
  EXPECT_EQ(finish, "tool_calls");
  EXPECT_EQ(names, (std::vector<std::string>{"look", "go"}));
  EXPECT_EQ(arguments, (std::vector<std::string>{"{\"a\": \"b\"}", "{}"}));
}

TEST_F(ToolsTest, OneCallOnlyWhenParallelCallsAreNotWanted) {
  answer(kAnswer);
  start();
  const value got = choice(std::string(kTools) + R"(,"parallel_tool_calls":false)");
  EXPECT_EQ(got.at("finish_reason"), "tool_calls");
  EXPECT_EQ(got.at("message").at("tool_calls").as_array().size(), 1u);
  EXPECT_EQ(port_.cancelled(), 1u) << "nothing behind the first call is computed";
}

TEST_F(ToolsTest, ACallCutOffByTheLimitSaysLength) {
  answer("<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b", FinishReason::kLength);
  start();
  const value got = choice(kTools);
  EXPECT_EQ(got.at("finish_reason"), "length");
  EXPECT_EQ(got.at("message").at("tool_calls").at(0).at("function").at("arguments"), "{\"a\": \"b");
}

// Its arguments are no JSON: a client that is told tool_calls would read them.
TEST_F(ToolsTest, ACallThatIsNotWholeIsNoToolCall) {
  start();
  const std::string whole = "<tool_call>{\"name\": \"go\", \"arguments\": {}}</tool_call>";
  const auto finish = [&](const std::string& text, const std::string& more = "") {
    answer(text);
    const std::string unary(choice(kTools + more).at("finish_reason").as_string());
    const auto reply = chat(kTools + more + R"(,"stream":true)");
    EXPECT_EQ(events(reply.body).back().at("choices").at(0).at("finish_reason"), value(unary)) << text;
    return unary;
  };
  EXPECT_EQ(finish("<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b"), "stop");
  EXPECT_EQ(finish("<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b\"}"), "stop")
      << "the arguments are over, the call is not";
  EXPECT_EQ(finish("<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": \"b\"}}"), "tool_calls");
  EXPECT_EQ(finish(kAnswer, R"(,"stop":"</tool_call>")"), "tool_calls");
  EXPECT_EQ(finish(kAnswer, R"(,"stop":"b")"), "stop");
  EXPECT_EQ(finish(kAnswer, R"(,"stop":"go\", ")"), "tool_calls") << "nothing was told of the second call";
  const std::string broken = "<tool_call>{\"name\": \"look\", \"arguments\": {\"a\": 1]}}</tool_call>";
  for (const std::string& text : {whole + broken, broken + whole}) EXPECT_EQ(finish(text), "stop");
  EXPECT_EQ(finish(broken + whole, R"(,"parallel_tool_calls":false)"), "stop") << "it is told the first";
  EXPECT_EQ(finish(whole + broken, R"(,"parallel_tool_calls":false)"), "tool_calls");
}

TEST_F(ToolsTest, ACallThatIsAskedForIsHeldToItsGrammarAndToldLikeAnyOther) {
  const text::ModelText bytes = text::byte_model("");
  text::GrammarCache grammars([&] {
    return text::GrammarVocabulary::create(*bytes.tokenizer, bytes.vocab_size(), bytes.end_token_ids);
  });
  grammars_ = &grammars;
  answer("<tool_call>\n{\"name\": \"look\", \"arguments\": {}}\n</tool_call>");
  start();
  for (const char* asked : {R"("required")", R"({"type":"function","function":{"name":"look"}})"}) {
    const std::string more = std::string(kTools) + R"(,"tool_choice":)" + asked;
    const value got = choice(more);
    EXPECT_EQ(port_.last().request.grammar.kind, GrammarKind::kLark);
    EXPECT_EQ(got.at("finish_reason"), "tool_calls");
    EXPECT_EQ(got.at("message").at("tool_calls").at(0).at("function").at("name"), "look");
    const auto stream = events(chat(more + R"(,"stream":true)").body);
    EXPECT_EQ(stream.back().at("choices").at(0).at("finish_reason"), "tool_calls");
  }
  choice(kTools);
  EXPECT_TRUE(port_.last().request.grammar.empty());
}

TEST_F(ToolsTest, WithoutToolsTheTextStaysText) {
  answer("<tool_call>{\"name\": \"go\"}</tool_call>");
  start();
  for (const std::string& more :
       {std::string(R"("n":1)"), std::string(kTools) + R"(,"tool_choice":"none")"}) {
    const value got = choice(more);
    EXPECT_EQ(got.at("finish_reason"), "stop");
    EXPECT_EQ(got.at("message").at("content"), "<tool_call>{\"name\": \"go\"}</tool_call>");
    EXPECT_FALSE(got.at("message").as_object().contains("tool_calls"));
  }
}

// Mistral's [TOOL_CALLS] is a control token, which is no part of the text otherwise.
TEST_F(ToolsTest, AControlTokenThatBeginsCallsIsRead) {
  model_.tool_syntax = text::ToolSyntax::kTags;
  model_.tool_marks = {kBegin};  // spelled <begin>
  port_.set_script(ScriptedPort::tokens({kBegin, 'x', kUserMark, kEnd}, FinishReason::kEndToken));
  start();
  EXPECT_EQ(choice(kTools).at("message").at("content"), "<begin>x");
  EXPECT_EQ(choice(R"("n":1)").at("message").at("content"), "x");
}

TEST_F(ToolsTest, RefusedWhereNothingWouldComeOfThem) {
  start();
  const auto refused = [&](const std::string& more, const char* why) {
    const auto reply = chat(more);
    EXPECT_EQ(reply.status, 400) << more;
    EXPECT_THAT(reply.body, HasSubstr(why)) << more;
  };
  refused(R"("tool_choice":"required")", "`tool_choice` asks for a call, and there are no `tools`");
  refused(std::string(kTools) + R"(,"tool_choice":{"type":"function","function":{"name":"go"}})",
          "`tool_choice`: there is no tool `go`");
  refused(std::string(kTools) + R"(,"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto"}})",
          "`tool_choice`: only the type function is supported");
  refused(std::string(kTools) + R"(,"tool_choice":{"type":"function"})", "`tool_choice.function.name`");
  refused(std::string(kTools) + R"(,"tool_choice":"always")", "`tool_choice` must be");
  refused(R"("tools":[{"type":"function","function":{}}])", "tools[0].function.name");
  refused(R"("tools":[{"type":"retrieval","function":{"name":"f"}}])", "only tools of type function");
  refused(R"("tools":[{"function":{"name":"f","parameters":[]}}])", "tools[0].function.parameters");
  stop();
  model_.tool_syntax = text::ToolSyntax::kNone;
  start();
  refused(kTools, "this model's chat template takes no tools");
  refused(std::string(kTools) + R"(,"tool_choice":"required")", "this model's chat template takes no tools");
  stop();
  model_.tool_syntax = text::ToolSyntax::kUnknown;
  start();
  refused(kTools, "in a form that is not read here");
}

}  // namespace
}  // namespace baton::coordinator
