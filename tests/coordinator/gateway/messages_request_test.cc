// Bodies of Anthropic's Messages as those of chats that ask for the same.
#include "coordinator/gateway/messages_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace baton::coordinator {
namespace {

namespace json = boost::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::expected<ChatBody, ApiError> read(const std::string& body) {
  return messages_as_chat(json::parse(body).as_object(), true);
}
// Of a body with these messages and more fields.
json::object chat(const std::string& messages, const std::string& more = "") {
  const auto got = read(R"({"max_tokens":9,"messages":[)" + messages + "]" + more + "}");
  EXPECT_TRUE(got) << got.error().message;
  return got ? got->body : json::object();
}
std::string refusal(const std::string& body) {
  const auto got = read(body);
  return got ? "" : got.error().message;
}
constexpr const char* kHi = R"({"role":"user","content":"hi"})";

TEST(MessagesAsChat, TextBlocksAreParts) {
  EXPECT_EQ(chat(R"({"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}},
                     {"type":"document","source":{"type":"text","media_type":"text/plain","data":"b"},"title":"T"}]})",
                 R"(,"system":[{"type":"text","text":"S"}])")
                .at("messages"),
            json::parse(R"([{"role":"system","content":[{"type":"text","text":"S"}]},
                            {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"T\nb"}]}])"));
}

TEST(MessagesAsChat, TurnsInARowAreOne) {
  EXPECT_EQ(
      chat(std::string(kHi) + "," + kHi + R"(,{"role":"assistant","content":"x"},)" + kHi).at("messages"),
      json::parse(R"([{"role":"user","content":[{"type":"text","text":"hi"},{"type":"text","text":"hi"}]},
                            {"role":"assistant","content":[{"type":"text","text":"x"}]},
                            {"role":"user","content":[{"type":"text","text":"hi"}]}])"));
}

TEST(MessagesAsChat, CallsAndTheirResults) {
  const auto got = chat(std::string(kHi) + R"(,
      {"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":"x"},{"type":"text","text":"I look."},
        {"type":"tool_use","id":"t1","name":"look","input":{"a":1}},{"type":"tool_use","id":"t2","name":"go","input":{}}]},
      {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"4"},
        {"type":"tool_result","tool_use_id":"t2","content":[{"type":"text","text":"5"}],"is_error":true},
        {"type":"tool_result","tool_use_id":"t2"},{"type":"text","text":"and?"}]})");
  EXPECT_EQ(got.at("messages"), json::parse(R"([
      {"role":"user","content":[{"type":"text","text":"hi"}]},
      {"role":"assistant","content":[{"type":"text","text":"I look."}],"reasoning_content":"Hm.","tool_calls":[
        {"id":"t1","type":"function","function":{"name":"look","arguments":{"a":1}}},
        {"id":"t2","type":"function","function":{"name":"go","arguments":{}}}]},
      {"role":"tool","tool_call_id":"t1","content":[{"type":"text","text":"4"}],"name":"look"},
      {"role":"tool","tool_call_id":"t2","content":[{"type":"text","text":"5"}],"name":"go"},
      {"role":"tool","tool_call_id":"t2","content":"","name":"go"},
      {"role":"user","content":[{"type":"text","text":"and?"}]}])"));
}

TEST(MessagesAsChat, ToolsAndTheirChoice) {
  const std::string tools =
      R"(,"tools":[{"name":"f","description":"does","input_schema":{"type":"object"},"strict":true}],"tool_choice":)";
  const auto choice = [&](const char* text) { return chat(kHi, tools + text).at("tool_choice"); };
  EXPECT_EQ(
      chat(kHi, tools + R"({"type":"auto"})").at("tools"),
      json::parse(
          R"([{"type":"function","function":{"name":"f","description":"does","parameters":{"type":"object"}}}])"));
  EXPECT_EQ(choice(R"({"type":"auto"})"), "auto");
  EXPECT_EQ(choice(R"({"type":"none"})"), "none");
  EXPECT_EQ(choice(R"({"type":"any"})"), "required");
  EXPECT_EQ(choice(R"({"type":"tool","name":"f"})"),
            json::parse(R"({"type":"function","function":{"name":"f"}})"));
  EXPECT_EQ(chat(kHi, tools + R"({"type":"any","disable_parallel_tool_use":true})").at("parallel_tool_calls"),
            false);
}

TEST(MessagesAsChat, HowTheAnswerIsMade) {
  EXPECT_EQ(chat(kHi, R"(,"thinking":{"type":"enabled","budget_tokens":2048})"),
            json::parse(R"({"max_tokens":9,"chat_template_kwargs":{"enable_thinking":true},
                            "messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]})"));
  const auto without = chat(kHi, R"(,"thinking":{"type":"disabled"})");
  EXPECT_EQ(without.at("include_reasoning"), false);
  EXPECT_EQ(without.at("chat_template_kwargs").at("enable_thinking"), false);
  // What the client says itself goes before.
  EXPECT_EQ(chat(kHi, R"(,"thinking":{"type":"adaptive"},"chat_template_kwargs":{"enable_thinking":false})")
                .at("chat_template_kwargs")
                .at("enable_thinking"),
            false);
  const auto held = chat(
      kHi, R"(,"output_config":{"effort":"low","format":{"type":"json_schema","schema":{"type":"object"}}})");
  EXPECT_EQ(held.at("response_format").at("json_schema").at("schema"), json::parse(R"({"type":"object"})"));
  EXPECT_EQ(chat(kHi, R"(,"seed":3,"n":2,"stop_sequences":["a"])").contains("n"), false);
  EXPECT_THAT(
      read(std::string(R"({"max_tokens":1,"n":2,"metadata":{"user_id":"u"},"messages":[)") + kHi + "]}")
          ->unknown_fields,
      ElementsAre("n"));
}

TEST(MessagesAsChat, AnAnswerThatIsBegun) {
  const auto got = chat(std::string(kHi) + R"(,{"role":"assistant","content":"One, "})");
  EXPECT_EQ(got.at("continue_final_message"), true);
  EXPECT_FALSE(chat(kHi).contains("continue_final_message"));
  EXPECT_THAT(
      refusal(std::string(R"({"max_tokens":1,"messages":[)") + kHi +
              R"(,{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{}}]}]})"),
      HasSubstr("tool_result must follow"));
}

TEST(MessagesAsChat, ManyThoughtsTakeTheirLengthAndTooManyMessagesAreRefused) {
  std::string turns = kHi, blocks, results;
  for (int i = 0; i < 8000; ++i)
    blocks += std::string(i ? "," : "") + R"({"type":"thinking","thinking":"abcdefgh"})";
  for (int i = 0; i < 20; ++i) turns += R"(,{"role":"assistant","content":[)" + blocks + "]}";
  const auto got = chat(turns + "," + kHi);
  EXPECT_EQ(got.at("messages").at(1).at("reasoning_content").as_string().size(), 20u * 8000 * 9 - 1);
  for (int i = 0; i < 8192; ++i)
    results += std::string(i ? "," : "") + R"({"type":"tool_result","tool_use_id":"t"})";
  EXPECT_THAT(refusal(std::string(R"({"max_tokens":1,"messages":[)") + kHi +
                      R"(,{"role":"user","content":[)" + results + "]}]}"),
              HasSubstr("at most 8192 messages and results"));
}

TEST(MessagesAsChat, WrongBodiesAreRefusedInWordsThatSayWhere) {
  const auto with = [](const std::string& message) {
    return refusal(R"({"max_tokens":1,"messages":[)" + message + "]}");
  };
  const auto block = [&](const std::string& b) { return with(R"({"role":"user","content":[)" + b + "]}"); };
  EXPECT_THAT(refusal(std::string(R"({"messages":[)") + kHi + "]}"), HasSubstr("`max_tokens` is missing"));
  EXPECT_THAT(refusal(R"({"max_tokens":1})"), HasSubstr("`messages` must be a list"));
  EXPECT_THAT(refusal(R"({"max_tokens":0,"messages":[]})"), HasSubstr("max_tokens"));
  EXPECT_THAT(with("7"), HasSubstr("`messages[0]` must be an object"));
  EXPECT_THAT(with(R"({"role":"tool","content":"x"})"), HasSubstr("`messages[0].role` must be"));
  EXPECT_THAT(with(R"({"role":"user"})"), HasSubstr("`messages[0].content` is missing"));
  EXPECT_THAT(with(R"({"role":"user","content":7})"),
              HasSubstr("`messages[0].content` must be a string or a list"));
  EXPECT_THAT(block("7"), HasSubstr("`messages[0].content[0]` must be an object"));
  EXPECT_THAT(block("{}"), HasSubstr("(missing)"));
  EXPECT_THAT(block(R"({"type":"image","source":{}})"), HasSubstr("blocks of type image are not supported"));
  EXPECT_THAT(block(R"({"type":"document","source":{"type":"base64","data":"x"}})"), HasSubstr("document"));
  EXPECT_THAT(block(R"({"type":"text","text":7})"), HasSubstr("`messages[0].content[0].text` must be"));
  EXPECT_THAT(block(R"({"type":"text"})"), HasSubstr("`messages[0].content[0].text` must be"));
  EXPECT_THAT(block(R"({"type":"tool_result"})"), HasSubstr("tool_use_id"));
  EXPECT_THAT(block(R"({"type":"tool_use","id":"a","name":"f","input":{}})"), HasSubstr("tool_use"));
  EXPECT_THAT(with(R"({"role":"assistant","content":[{"type":"tool_use","name":"f"}]})"),
              HasSubstr("`id` and `name`"));
  EXPECT_THAT(with(R"({"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":"x"}]})"),
              HasSubstr("input"));
  const auto more = [](const std::string& fields) {
    return refusal(std::string(R"({"max_tokens":1,"messages":[)") + kHi + "]," + fields + "}");
  };
  EXPECT_THAT(more(R"("system":7)"), HasSubstr("`system` must be"));
  EXPECT_THAT(more(R"("system":[{"type":"image"}])"), HasSubstr("`system[0]`"));
  EXPECT_THAT(more(R"("tools":[{"type":"web_search_20250305","name":"web_search"}])"),
              HasSubstr("web_search_20250305"));
  EXPECT_THAT(more(R"("tools":[{"name":"f"}])"), HasSubstr("`name` and `input_schema`"));
  EXPECT_THAT(more(R"("tool_choice":{"type":"tool"})"), HasSubstr("tool_choice.type"));
  EXPECT_THAT(more(R"("tool_choice":"auto")"), HasSubstr("tool_choice"));
  EXPECT_THAT(more(R"("thinking":{"type":"much"})"), HasSubstr("thinking.type"));
  EXPECT_THAT(more(R"("output_config":{"format":{"type":"xml"}})"), HasSubstr("output_config.format"));
  EXPECT_THAT(more(R"("mcp_servers":[{"url":"x"}])"), HasSubstr("mcp_servers"));
}

}  // namespace
}  // namespace baton::coordinator
