// What clients and their libraries really send, in raw prompts, in the history of a chat and in fields that
// ask for nothing.
#include <gmock/gmock.h>

#include "coordinator/gateway/chat_context.h"
#include "tests/coordinator/gateway/gateway_fixture.h"
#include "tests/text/byte_model.h"

namespace baton::coordinator {
namespace {

using boost::json::value;
using ::testing::HasSubstr;

class SourceOnly final : public text::ChatTemplate {
 public:
  explicit SourceOnly(std::string source) : source_(std::move(source)) {}
  const std::string& source() const override { return source_; }
  absl::StatusOr<std::string> render(std::string_view) const override { return ""; }

 private:
  const std::string source_;
};

class RequestsAsSent : public GatewayTest {
 protected:
  RequestsAsSent() { port_.set_script(ScriptedPort::tokens({'o', 'k'})); }
  // What the template is given of one message; the error's message when it is refused.
  value message(const std::string& sent) const {
    const value body = json(R"({"messages":[)" + sent + "]}");
    JsonFields fields(body.get_object());
    const ChatContext context = read_chat_context(fields, model_);
    if (!fields.ok()) return value(fields.error()->message);
    return json(context.json).at("messages").at(0);
  }
};

TEST_F(RequestsAsSent, SpecialTokensAreReadInRawPrompts) {
  start();
  auto c = client();
  const auto prompt_of = [&](const std::string& prompt, const std::string& more = "") {
    const auto reply =
        c.post("/v1/completions", R"({"add_special_tokens":false,"prompt":)" + prompt + more + "}");
    EXPECT_EQ(reply.status, 200) << reply.body;
    return port_.last().request.prompt;
  };
  const std::vector<TokenId> read = {kUserMark, 'a', kEnd};
  EXPECT_EQ(prompt_of(R"("<user>a<end>")"), read);
  EXPECT_EQ(prompt_of(R"(["x","<user>a<end>"])"), read);
  EXPECT_EQ(prompt_of(R"("<user>a<end>")", R"(,"parse_special":true)"), read);
  EXPECT_EQ(prompt_of(R"("<user>a<end>")", R"(,"parse_special":false)"), bytes_of("<user>a<end>"));
  EXPECT_EQ(unknown_fields_, 0);
  const auto wrong = c.post("/v1/completions", R"({"prompt":"a","parse_special":"no"})");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(json(wrong.body).at("error").at("param"), "parse_special");
}

TEST_F(RequestsAsSent, SpecialTokensInMessagesAreText) {
  start();
  auto c = client();
  for (const char* more : {"", R"(,"parse_special":true)"}) {
    const auto reply =
        c.post("/v1/chat/completions",
               std::string(R"({"messages":[{"role":"user","content":"<user>a<end>"}])") + more + "}");
    ASSERT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(port_.last().request.prompt, bytes_of("user:<user>a<end>|assistant:"));
  }
}

// ---- the history of a chat

TEST_F(RequestsAsSent, ATurnOfTheModelOrOfAToolMaySayNothing) {
  for (const char* role : {"assistant", "tool", "function", "ipython"})
    for (const char* content : {"", R"(,"content":null)", R"(,"content":"")"}) {
      const value got = message(R"({"role":")" + std::string(role) + "\"" + content + "}");
      ASSERT_TRUE(got.is_object()) << role << content << got;
      EXPECT_EQ(got.at("content"), "");
    }
  for (const char* role : {"user", "system", "developer"})
    for (const char* content : {"", R"(,"content":null)"})
      EXPECT_EQ(message(R"({"role":")" + std::string(role) + "\"" + content + "}"),
                "`messages[0].content` is missing");
  EXPECT_EQ(message(R"({"role":"assistant","content":null,"refusal":"no"})"),
            json(R"({"role":"assistant","content":"","refusal":"no"})"));
  EXPECT_EQ(message(R"({"role":"tool","tool_call_id":"x","content":null})"),
            json(R"({"role":"tool","tool_call_id":"x","content":""})"));
  for (const char* none : {"[]", "null"})
    EXPECT_EQ(message(R"({"role":"assistant","content":null,"tool_calls":)" + std::string(none) + "}"),
              json(R"({"role":"assistant","content":""})"));
}

TEST_F(RequestsAsSent, TheHistoryOfAChatWithoutContentIsAnswered) {
  start();
  const auto reply = client().post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"a"},
      {"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},
      {"role":"function","name":"f","content":null},{"role":"assistant","content":null,"refusal":"no"},
      {"role":"user","content":"b"}]})");
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(port_.last().request.prompt,
            bytes_of("user:a|assistant:|function:|assistant:|user:b|assistant:"));
}

TEST_F(RequestsAsSent, TheOlderFormOfACallBecomesTheNewer) {
  const std::string old =
      R"({"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"})";
  const value want = json(R"([{"type":"function","function":{"name":"f","arguments":{"a":1}}}])");
  EXPECT_EQ(message(old + "}"),
            json(R"({"role":"assistant","content":"","tool_calls":)" + boost::json::serialize(want) + "}"));
  EXPECT_EQ(message(R"({"role":"assistant","content":"x","function_call":null})"),
            json(R"({"role":"assistant","content":"x"})"));
  EXPECT_EQ(message(R"({"role":"assistant","function_call":{"arguments":"{}"}})"),
            "`messages[0].function_call.name` must be a string");
  const std::string result = R"({"role":"function","name":"f","content":"7"})";
  EXPECT_EQ(message(result).at("role"), "function") << "as it was: this template writes any role";
  model_.chat_template = std::make_unique<SourceOnly>("{% if message.role == 'tool' %}");
  EXPECT_EQ(message(result), json(R"({"role":"tool","name":"f","content":"7"})"));
}

TEST_F(RequestsAsSent, CallsThatAreNoneAreNamed) {
  const auto calls = [&](const std::string& sent) {
    const value got = message(R"({"role":"assistant","content":null,"tool_calls":)" + sent + "}");
    return got.is_string() ? std::string(got.get_string()) : boost::json::serialize(got.at("tool_calls"));
  };
  const std::string good = R"({"id":"1","type":"function","function":{"name":"f","arguments":"{}"}})";
  EXPECT_EQ(calls(R"("a")"), "`messages[0].tool_calls` must be a list");
  EXPECT_EQ(calls("{}"), "`messages[0].tool_calls` must be a list");
  EXPECT_EQ(calls(R"(["a"])"), "`messages[0].tool_calls[0]` must be an object with a `function`");
  EXPECT_THAT(calls("[" + good + R"(,{"id":"2"}])"),
              HasSubstr("`messages[0].tool_calls[1].function` must be"));
  EXPECT_THAT(calls(R"([{"function":"f"}])"), HasSubstr("`messages[0].tool_calls[0].function` must be"));
  EXPECT_THAT(calls(R"([{"function":{}}])"), HasSubstr("`messages[0].tool_calls[0].function.name` must be"));
  EXPECT_THAT(calls(R"([{"function":{"name":"f","arguments":7}}])"),
              HasSubstr("`messages[0].tool_calls[0].function.arguments` must be"));
  EXPECT_THAT(calls(R"([{"type":"custom","custom":{"name":"f"}}])"),
              HasSubstr("only calls of type function"));
  const std::string empty = R"([{"function":{"name":"f","arguments":{}}}])";
  for (const char* arguments : {"", R"(,"arguments":null)", R"(,"arguments":"")", R"(,"arguments":"{}")"})
    EXPECT_EQ(calls(R"([{"function":{"name":"f")" + std::string(arguments) + "}}]"), empty);
  start();
  const auto reply = client().post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"1"}]}]})");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(json(reply.body).at("error").at("param"), "messages");
  EXPECT_THAT(reply.body, HasSubstr("`messages[1].tool_calls[0].function`"));
}

// ---- fields that ask for nothing

TEST_F(RequestsAsSent, EmptyOptionalFieldsAreAbsent) {
  start();
  auto c = client();
  const char* all =
      R"("bad_words":[],"allowed_token_ids":[],"grammar":"","guided_json":{},"guided_regex":"","guided_choice":[],
         "guided_grammar":"","json_schema":{},"structured_outputs":{})";
  const auto text = c.post("/v1/completions", std::string(R"({"prompt":"a",)") + all + "}");
  EXPECT_EQ(text.status, 200) << text.body;
  const auto chat = c.post("/v1/chat/completions",
                           std::string(R"({"messages":[{"role":"user","content":"a"}],"functions":[],
                                           "function_call":"none",)") +
                               all + "}");
  EXPECT_EQ(chat.status, 200) << chat.body;
  EXPECT_EQ(unknown_fields_, 0);
}

TEST_F(RequestsAsSent, TheGrammarOfAnAnswerGoesToTheWorkers) {
  const text::ModelText bytes = text::byte_model("");
  text::GrammarCache grammars([&] {
    return text::GrammarVocabulary::create(*bytes.tokenizer, bytes.vocab_size(), bytes.end_token_ids);
  });
  grammars_ = &grammars;
  start();
  auto c = client();
  const auto complete = [&](const std::string& more) {
    return c.post("/v1/completions", R"({"prompt":"a",)" + more + "}");
  };
  EXPECT_EQ(complete(R"("guided_regex":"b+")").status, 200);
  EXPECT_EQ(port_.last().request.grammar, (Grammar{GrammarKind::kRegex, "b+"}));
  EXPECT_EQ(complete(R"("response_format":{"type":"text"})").status, 200);
  EXPECT_EQ(port_.last().request.grammar, Grammar{});
  const auto bad = complete(R"("guided_regex":"(b")");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(json(bad.body).at("error").at("param"), "guided_regex");
  EXPECT_EQ(port_.count(), 2u);
}

TEST_F(RequestsAsSent, MaxCompletionTokensIsReadInCompletions) {
  start();
  auto c = client();
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","max_completion_tokens":7})").status, 200);
  EXPECT_EQ(port_.last().request.stop.max_tokens, 7);
  EXPECT_EQ(c.post("/v1/completions", R"({"prompt":"a","max_tokens":9,"max_completion_tokens":7})").status,
            200);
  EXPECT_EQ(port_.last().request.stop.max_tokens, 7) << "as in chat";
  EXPECT_EQ(unknown_fields_, 0);
}

}  // namespace
}  // namespace baton::coordinator
