// Models that think before they answer, over HTTP: thoughts apart from content, counted, and where clients
// look.
#include <gmock/gmock.h>

#include "tests/coordinator/gateway/gateway_fixture.h"
#include "tests/text/byte_model.h"

namespace baton::coordinator {
namespace {

using boost::json::value;
using ::testing::HasSubstr;

// As R1's does: the answer begins inside.
class OpenTemplate final : public text::ChatTemplate {
 public:
  const std::string& source() const override { return source_; }
  absl::StatusOr<std::string> render(std::string_view context_json) const override {
    const auto context = boost::json::parse(context_json).as_object();
    const auto& last = context.at("messages").as_array().back().as_object();
    const auto* thoughts = last.if_contains("reasoning_content");
    return std::string(thoughts ? thoughts->as_string() : last.at("content").as_string()) + "<think>\n";
  }

 private:
  const std::string source_ = "<think>";
};

class ReasoningTest : public GatewayTest {
 protected:
  ReasoningTest() { model_.reasoning_syntax = text::ReasoningSyntax::kThink; }
  ~ReasoningTest() override { stop(); }
  void answer(std::string_view text, FinishReason reason = FinishReason::kEndToken) {
    std::vector<TokenId> ids = bytes_of(text);
    if (reason == FinishReason::kEndToken) ids.push_back(kEnd);
    port_.set_script(ScriptedPort::tokens(ids, reason));
  }
  value chat(const std::string& more = "", const std::string& message = R"({"role":"user","content":"hi"})") {
    auto c = client();
    const auto reply = c.post("/v1/chat/completions", R"({"messages":[)" + message + "]" + more + "}");
    EXPECT_EQ(reply.status, 200) << reply.body;
    return json(reply.body);
  }
};

constexpr const char* kAnswer = "<think>\nHm.\n</think>\n\nYes.";

TEST_F(ReasoningTest, ThoughtsOfAWholeAnswer) {
  answer(kAnswer);
  start();
  const value got = chat();
  const value& message = got.at("choices").at(0).at("message");
  EXPECT_EQ(message.at("content"), "Yes.");
  EXPECT_EQ(message.at("reasoning_content"), "Hm.");
  EXPECT_EQ(message.at("reasoning"), "Hm.");
  EXPECT_EQ(got.at("choices").at(0).at("finish_reason"), "stop");
  const size_t thought =
      std::string("<think>\nHm.\n</think>").size() - std::string("<think").size();  // bytes are tokens
  EXPECT_EQ(got.at("usage").at("completion_tokens_details").at("reasoning_tokens"), thought);
}

TEST_F(ReasoningTest, ThoughtsOfAStream) {
  answer(kAnswer);
  start();
  auto c = client();
  const auto reply = c.post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}})");
  std::string content, reasoning;
  bool mixed = false;
  for (const value& event : events(reply.body)) {
    if (event.at("choices").as_array().empty()) {
      EXPECT_EQ(event.at("usage").at("completion_tokens_details").at("reasoning_tokens"), 14);
      continue;
    }
    const auto& delta = event.at("choices").at(0).at("delta").as_object();
    const value* thought = delta.if_contains("reasoning_content");
    const value* text = delta.if_contains("content");
    if (thought) reasoning += thought->as_string();
    if (text) content += text->as_string();
    mixed |= thought && text;
  }
  EXPECT_EQ(reasoning, "Hm.");
  EXPECT_EQ(content, "Yes.");
  EXPECT_FALSE(mixed);
}

TEST_F(ReasoningTest, AnAnswerMayBeginInsideOrEndThere) {
  model_.chat_template = std::make_unique<OpenTemplate>();
  answer("Hm.\n</think>\nYes.");
  start();
  EXPECT_EQ(chat().at("choices").at(0).at("message").at("reasoning_content"), "Hm.");
  answer("Hm, and then", FinishReason::kLength);
  const value got = chat();
  EXPECT_EQ(got.at("choices").at(0).at("message").at("reasoning_content"), "Hm, and then");
  EXPECT_TRUE(got.at("choices").at(0).at("message").at("content").is_null());
  EXPECT_EQ(got.at("choices").at(0).at("finish_reason"), "length");
}

TEST_F(ReasoningTest, ClientsMayWantItOtherwise) {
  answer(kAnswer);
  start();
  const auto message = [&](const std::string& more) {
    return chat(more).at("choices").at(0).at("message").as_object();
  };
  for (const char* together : {R"(,"reasoning_format":"none")", R"(,"separate_reasoning":false)"}) {
    EXPECT_EQ(message(together).at("content"), kAnswer) << together;
    EXPECT_FALSE(message(together).contains("reasoning_content"));
  }
  EXPECT_EQ(message(R"(,"reasoning_format":"deepseek")").at("reasoning_content"), "Hm.");
  const auto without = message(R"(,"include_reasoning":false)");
  EXPECT_EQ(without.at("content"), "Yes.");
  EXPECT_FALSE(without.contains("reasoning_content") || without.contains("reasoning"));
  auto c = client();
  const auto refused = c.post("/v1/chat/completions",
                              R"({"messages":[{"role":"user","content":"hi"}],"reasoning_format":"xml"})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("reasoning_format"));
}

// Inside, where the template leaves them open; in the content, where it does not. Not with thoughts of its
// own, nor held to a form.
TEST_F(ReasoningTest, AnAnswerMayBeBegun) {
  const std::string begun = R"({"role":"user","content":"hi"},{"role":"assistant","content":"So"})";
  const std::string on = R"(,"continue_final_message":true)";
  answer(" Hm.</think>Yes.");
  start();
  EXPECT_EQ(chat(on, begun).at("choices").at(0).at("message").at("content"), " Hm.</think>Yes.");
  auto c = client();
  const auto refused = [&](const std::string& last, const std::string& more) {
    const auto reply = c.post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"},)" +
                                                          last + "]" + on + more + "}");
    EXPECT_EQ(reply.status, 400) << reply.body;
    return reply.body;
  };
  EXPECT_THAT(refused(R"({"role":"assistant","content":"So","reasoning":"Hm"})", ""),
              HasSubstr("begun with thoughts"));
  EXPECT_THAT(refused(R"({"role":"assistant","content":"So"})", R"(,"guided_regex":"a")"),
              HasSubstr("last message has begun"));
}

TEST_F(ReasoningTest, AnAnswerMayBeBegunAmongThoughts) {
  model_.chat_template = std::make_unique<OpenTemplate>();
  answer(" Hm.</think>Yes.");
  start();
  const value got = chat(R"(,"continue_final_message":true)",
                         R"({"role":"user","content":"hi"},{"role":"assistant","content":"So"})");
  EXPECT_EQ(got.at("choices").at(0).at("message").at("content"), "Yes.");
  EXPECT_EQ(got.at("choices").at(0).at("message").at("reasoning"), "Hm.");
}

// What a client asks for is the form of the content. Lark of its own, and a prompt that says the model has
// thought, hold from the first token on.
TEST_F(ReasoningTest, AFormHoldsBehindThoughts) {
  const text::ModelText bytes = text::byte_model("");
  text::GrammarCache grammars([&] {
    return text::GrammarVocabulary::create(*bytes.tokenizer, bytes.vocab_size(), bytes.end_token_ids);
  });
  grammars_ = &grammars;
  answer("<think>\nHm.\n</think>\n\n\"yes\"");
  start();
  const std::string schema =
      R"(,"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"enum":["yes","no"]}}})";
  const value got = chat(schema);
  EXPECT_EQ(got.at("choices").at(0).at("message").at("content"), "\"yes\"");
  EXPECT_EQ(got.at("choices").at(0).at("message").at("reasoning_content"), "Hm.");
  const auto source = [&] { return port_.last().request.grammar.source; };
  EXPECT_THAT(source(), HasSubstr("start: thoughts gap answer | answer"));
  chat(R"(,"guided_choice":["a/b","c"])");
  EXPECT_THAT(source(), HasSubstr("start: thoughts gap answer | answer"));
  chat(R"(,"tools":[{"type":"function","function":{"name":"look"}}],"tool_choice":"required")");
  EXPECT_THAT(source(), HasSubstr("start: thoughts gap answer | answer"));
  chat(R"(,"guided_grammar":"start: \"a\"")");
  EXPECT_EQ(source(), "start: \"a\"");
  chat(schema + R"(,"separate_reasoning":false)");
  EXPECT_EQ(port_.last().request.grammar.kind, GrammarKind::kJsonSchema)
      << "thoughts are part of the content";
  stop();
  model_.chat_template = std::make_unique<OpenTemplate>();
  answer("Hm.</think>\"no\"");
  start();
  EXPECT_EQ(chat(schema).at("choices").at(0).at("message").at("content"), "\"no\"");
  EXPECT_THAT(source(), HasSubstr("start: thoughts gap answer\n"));
}

TEST_F(ReasoningTest, CallsComeBehindThoughtsAndNotOfThem) {
  answer(
      "<think>I could <tool_call>{\"name\": \"no\"}</tool_call></think>\n"
      "<tool_call>{\"name\": \"look\", \"arguments\": {}}</tool_call>");
  start();
  const value choice =
      chat(R"(,"tools":[{"type":"function","function":{"name":"look"}}])").at("choices").at(0);
  EXPECT_EQ(choice.at("finish_reason"), "tool_calls");
  ASSERT_EQ(choice.at("message").at("tool_calls").as_array().size(), 1u);
  EXPECT_EQ(choice.at("message").at("tool_calls").at(0).at("function").at("name"), "look");
  EXPECT_THAT(std::string(choice.at("message").at("reasoning").as_string()),
              HasSubstr("I could <tool_call>"));
}

// In a raw completion text is text; so it is for a model that does not think.
TEST_F(ReasoningTest, OnlyChatsOfModelsThatThinkAreSplit) {
  answer(kAnswer);
  start();
  auto c = client();
  const value raw = json(c.post("/v1/completions", R"({"prompt":"a","max_tokens":40})").body);
  EXPECT_EQ(raw.at("choices").at(0).at("text"), kAnswer);
  EXPECT_FALSE(raw.at("usage").as_object().contains("completion_tokens_details"));
  stop();
  model_.reasoning_syntax = text::ReasoningSyntax::kNone;
  answer(kAnswer);
  start();
  const value got = chat();
  EXPECT_EQ(got.at("choices").at(0).at("message").at("content"), kAnswer);
  EXPECT_FALSE(got.at("usage").as_object().contains("completion_tokens_details"));
}

// Thoughts of earlier turns go back to the template under the name it knows.
TEST_F(ReasoningTest, EarlierThoughtsReachTheTemplate) {
  model_.chat_template = std::make_unique<OpenTemplate>();
  answer("a</think>b");
  start();
  for (const char* name : {"reasoning", "reasoning_content"}) {
    chat("", std::string(R"({"role":"assistant","content":"c",")") + name + R"(":"as before"})");
    const auto prompt = port_.last().request.prompt;
    EXPECT_EQ(ByteTokenizer().decode(prompt, false), "as before<think>\n");
  }
  auto c = client();
  EXPECT_EQ(
      c.post("/v1/chat/completions", R"({"messages":[{"role":"assistant","content":"c","reasoning":[1]}]})")
          .status,
      400);
}

}  // namespace
}  // namespace baton::coordinator
