#include <cmath>

#include "base/rng.h"
#include "coordinator/gateway/json_fields.h"
#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

constexpr char kText[] = "/v1/completions";
constexpr char kChat[] = "/v1/chat/completions";

class BadBodies : public GatewayTest {
 protected:
  void expect_refused(LoopbackClient& c, const std::string& path, const std::string& body,
                      const std::string& names = "") {
    const auto reply = c.post(path, body);
    const std::string shown = body.substr(0, 200);
    ASSERT_TRUE(reply.status >= 400 && reply.status < 500) << reply.status << " " << shown;
    const auto error = json(reply.body).at("error");
    EXPECT_FALSE(error.at("message").as_string().empty()) << shown;
    EXPECT_TRUE(error.at("type").is_string()) << shown;
    EXPECT_TRUE(error.as_object().contains("param") && error.as_object().contains("code")) << shown;
    EXPECT_NE(std::string(error.at("message").as_string()).find(names), std::string::npos)
        << shown << reply.body;
    ++refused_;
  }
  int refused_ = 0;
};

TEST_F(BadBodies, NoJson) {
  start();
  auto c = client();
  const std::string deep = std::string(2000, '[') + std::string(2000, ']');
  const std::vector<std::string> bodies = {"",
                                           " ",
                                           "\n\n",
                                           "{",
                                           "}",
                                           "[",
                                           "]",
                                           "null",
                                           "true",
                                           "7",
                                           "\"x\"",
                                           "[]",
                                           "{}",
                                           "{]",
                                           "{\"prompt\"}",
                                           "{\"prompt\":}",
                                           "{\"prompt\":\"a\",}",
                                           "{'prompt':'a'}",
                                           "{prompt:\"a\"}",
                                           "{\"prompt\":\"a\"} x",
                                           "{\"prompt\":\"a\"}{}",
                                           deep,
                                           "{\"prompt\":" + deep + "}",
                                           "{\"a\":" + deep,
                                           "{\"prompt\":\"\xff\xfe\"}",
                                           "{\"prompt\":\"\xC0\xAF\"}",
                                           "{\"prompt\":\"\xED\xA0\x80\"}",
                                           "{\"prompt\":\"\xE2\x82\"}",
                                           "{\"prompt\":\"\\ud800\"}",
                                           "{\"prompt\":\"\\udc00\\ud800\"}",
                                           "{\"prompt\":\"\\x\"}",
                                           "{\"prompt\":\"a\nb\"}",
                                           std::string("\0", 1),
                                           std::string("{\"prompt\":\"\0\"}", 14),
                                           "{\"prompt\":NaN}",
                                           "{\"prompt\":01}",
                                           "{\"prompt\":1.}",
                                           "{\"prompt\":.5}",
                                           "{\"prompt\":+1}",
                                           "{\"prompt\":0x1}",
                                           "{\"prompt\":Infinity}",
                                           "{\"prompt\":\"a\" \"b\"}",
                                           "\xEF\xBB\xBF{\"prompt\":\"a\"}",
                                           "{/*c*/\"prompt\":\"a\"}",
                                           "GET / HTTP/1.1\r\n\r\n",
                                           "prompt=a",
                                           "<xml/>",
                                           std::string(100000, '{'),
                                           std::string(100000, '"')};
  for (const auto& body : bodies)
    for (const char* path : {kText, kChat, "/tokenize", "/detokenize"}) expect_refused(c, path, body);
  EXPECT_EQ(port_.count(), 0u);
}

TEST_F(BadBodies, NoJsonForAReasonThatIsEasyToTell) {
  start();
  auto c = client();
  const auto tells = [&](const std::string& value, const char* hint) {
    const auto reply = c.post(kText, "{\"prompt\":" + value + "}");
    EXPECT_EQ(reply.status, 400);
    const std::string message(json(reply.body).at("error").at("message").as_string());
    EXPECT_NE(message.find(std::string("near byte ")), std::string::npos) << message;
    const size_t open = message.find(" (");
    EXPECT_EQ(open == std::string::npos ? "" : message.substr(open), hint) << value;
  };
  const char *half = " (half of a surrogate pair: \\ud800 to \\udfff come in twos)",
             *bytes = " (it is not UTF-8)", *numbers = " (JSON has no NaN and no Infinity)";
  for (const char* value :
       {"\"a\\ud800\"", "\"\\uD83Dx\"", "\"\\ud83d\\n\"", "\"\\ud83d\\u0041\"", "\"\\udc00\""})
    tells(value, half);
  for (const char* value :
       {"\"\xff\"", "\"a\xC0\xAF\"", "\"\xED\xA0\x80\"", "\"\xE2\x82\"", "\"\xE2\x82z\"", "\xff"})
    tells(value, bytes);
  for (const char* value : {"NaN", "Infinity", "-Infinity", "[1,NaN]"}) tells(value, numbers);
  for (const char* value : {"nul", "'a'", "\"\\ud83d\\ude00\\x\"", "\xE2\x80\x9C", "\"\\x\"", "\xEF\xBF\xBD"})
    tells(value, "");
}

// Every field with values of a wrong type or out of its range; the message names the field.
TEST_F(BadBodies, WrongTypesAndRanges) {
  start();
  auto c = client();
  const std::vector<std::pair<std::string, std::vector<std::string>>> fields = {
      {"max_tokens",
       {"-1", "0", "1.5", "\"5\"", "true", "[]", "{}", "1e30", "2147483648", "99999999999999999999"}},
      {"temperature", {"-0.1", "2.1", "\"hot\"", "true", "[1]", "1e999", "-1e999"}},
      {"top_p", {"-0.1", "1.01", "\"x\"", "{}", "false"}},
      {"top_k", {"-2", "0.5", "\"x\"", "1e20", "[]"}},
      {"min_p", {"-0.1", "1.1", "\"x\""}},
      {"n", {"0", "-1", "-9223372036854775808", "17", "\"2\"", "1.5", "1e10"}},
      {"logprobs", {"-1", "21", "1000", "\"x\"", "0.5"}},
      {"seed", {"\"x\"", "0.5", "1e30", "[]", "true"}},
      {"stop",
       {"7", "[7]", "[\"\"]", "\"\"", "{}", "[null]", "\"" + std::string(257, 'x') + "\"", "[[\"a\"]]",
        "[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\","
        "\"a\"]"}},
      {"logit_bias",
       {"7", "[]", "{\"x\":1}", "{\"-1\":1}", "{\"300\":1}", "{\"1\":101}", "{\"1\":\"y\"}",
        "{\"99999999999999\":1}", "{\"\":1}", "{\" 1\":1}"}},
      {"stop_token_ids", {"7", "[\"x\"]", "[-1]", "[300]", "[1.5]", "[1e30]", "{}"}},
      {"min_tokens", {"-1", "\"x\"", "17.5", "100"}},
      {"stream", {"\"yes\"", "1", "[]"}},
      {"stream_options", {"7", "\"x\"", "{}", "[]"}},
      {"prompt",
       {"7", "{}", "[]", "[[]]", "[[\"x\"]]", "[-1]", "[300]", "[1e12]", "[1,\"x\"]", "[\"x\",1]", "[true]",
        "[null]", "[[1],\"a\"]", "true"}},
      {"repetition_penalty", {"0", "-1", "\"x\"", "1e9"}},
      {"presence_penalty", {"-2.1", "2.1", "\"x\""}},
      {"frequency_penalty", {"-2.1", "2.1", "\"x\""}},
      {"model", {"7", "[]", "\"nope\"", "\"../../etc/passwd\"", "\"" + std::string(300, 'm') + "\""}},
      {"echo", {"\"x\"", "1"}},
      {"ignore_eos", {"\"x\"", "0"}},
      {"skip_special_tokens", {"\"x\""}},
      {"include_stop_str_in_output", {"\"x\""}},
      {"return_token_ids", {"\"x\""}},
      {"response_format", {"7", "{}", "{\"type\":7}", "{\"type\":\"xml\"}", "{\"type\":\"json_schema\"}"}},
      {"suffix", {"\"x\"", "7"}},
      {"best_of", {"0", "2", "17", "\"x\""}},
      {"use_beam_search", {"true", "\"x\""}},
      {"guided_json", {"[7]", "\"x\""}},
      {"guided_choice", {"[\"\"]", "7"}},
      {"structured_outputs", {"{\"json\":7}", "7"}},
      {"bad_words", {"[\"x\"]", "[\"\"]"}},
      {"allowed_token_ids", {"[7]"}},
      {"grammar", {"\"root ::= x\"", "7"}},
      {"max_completion_tokens", {"0", "-1", "\"x\""}},
      {"prompt_logprobs", {"1", "\"x\""}},
      {"cache_salt", {"7", "\"" + std::string(257, 's') + "\""}}};
  for (const auto& [name, values] : fields)
    for (const auto& v : values) {
      const std::string prompt = name == "prompt" ? "" : "\"prompt\":\"a\",";
      const bool named = name != "model" && v != "[]" && v != "[[]]";
      expect_refused(c, kText, "{" + prompt + "\"" + name + "\":" + v + "}", named ? name : "");
    }
  const std::vector<std::string> chats = {
      "{}",
      R"({"messages":null})",
      R"({"messages":[]})",
      R"({"messages":7})",
      R"({"messages":{}})",
      R"({"messages":[7]})",
      R"({"messages":[{}]})",
      R"({"messages":[{"role":"user"}]})",
      R"({"messages":[{"content":"x"}]})",
      R"({"messages":[{"role":7,"content":"x"}]})",
      R"({"messages":[{"role":"","content":"x"}]})",
      R"({"messages":[{"role":"im_end","content":"x"}]})",
      R"({"messages":[{"role":"User","content":"x"}]})",
      R"({"messages":[{"role":"user","content":7}]})",
      R"({"messages":[{"role":"user","content":[7]}]})",
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}]})",
      R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
      R"({"messages":[{"role":"user","content":[{"text":"x"}]}]})",
      R"({"messages":[{"role":"forbidden","content":"x"}]})",
      R"({"messages":[{"role":"user","content":null}]})",
      R"({"messages":[{"role":"assistant","content":null,"tool_calls":["a"]}]})",
      R"({"messages":[{"role":"assistant","content":null,"function_call":"f"}]})",
      R"({"messages":[{"role":"user","content":"x"}],"tools":7})",
      R"({"messages":[{"role":"user","content":"x"}],"tools":[7]})",
      R"({"messages":[{"role":"user","content":"x"}],"tool_choice":"required"})",
      R"({"messages":[{"role":"user","content":"x"}],"tool_choice":{"type":"function"}})",
      R"({"messages":[{"role":"user","content":"x"}],"tool_choice":7})",
      R"({"messages":[{"role":"user","content":"x"}],"functions":[{"name":"f"}]})",
      R"({"messages":[{"role":"user","content":"x"}],"functions":[],"function_call":{"name":"f"}})",
      R"({"messages":[{"role":"user","content":"x"}],"echo":true})",
      R"({"messages":[{"role":"user","content":"x"}],"logprobs":1})",
      R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":2})",
      R"({"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":21})",
      R"({"messages":[{"role":"user","content":"x"}],"max_completion_tokens":0})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template":"x"})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":7})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"tools":[{"type":"function"}]}})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"messages":[]}})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"documents":[]}})",
      R"({"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"add_generation_prompt":false}})",
      R"({"messages":[{"role":"user","content":"x"}],"documents":7})",
      R"({"messages":[{"role":"user","content":"x"}],"continue_final_message":true})"};
  for (const auto& body : chats) expect_refused(c, kChat, body);
  EXPECT_EQ(port_.count(), 0u);
  EXPECT_GT(refused_, 150);
}

TEST_F(BadBodies, LimitsAtTheirEdges) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  auto c = client();
  const auto biases = [](int n) {
    std::string out;
    for (int i = 0; i < n; ++i)
      out += (i ? ",\"" : "\"") + std::to_string(i % 300) + std::string(i / 300, ' ') + "\":1";
    return out;
  };
  expect_refused(c, kText, "{\"prompt\":\"a\",\"logit_bias\":{" + biases(1025) + "}}", "at most 1024");
  const auto nested = [](int depth) {
    return "{\"prompt\":\"a\",\"x\":" + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_EQ(c.post(kText, nested(63)).status, 200);
  expect_refused(c, kText, nested(64), "deeper");
  std::string prompts = "\"a\"";
  for (int i = 1; i < 128; ++i) prompts += ",\"a\"";
  EXPECT_EQ(c.post(kText, "{\"prompt\":[" + prompts + "]}").status, 200);
  expect_refused(c, kText, "{\"prompt\":[" + prompts + ",\"a\"]}", "prompt");
  expect_refused(c, kText, "{\"n\":3,\"prompt\":[" + prompts + "]}", "`n`");
  EXPECT_EQ(c.post(kText, "{\"prompt\":\"a\",\"prompt\":7,\"prompt\":\"b\"}").status, 200)
      << "the last of equal keys holds";
  EXPECT_EQ(port_.last().request.prompt.back(), 'b');
  EXPECT_EQ(
      c.post(kText,
             "{\"prompt\":\"a\",\"n\":1.0,\"stop\":null,\"logprobs\":null,\"seed\":18446744073709551615}")
          .status,
      200);
  EXPECT_EQ(port_.last().request.sampling.seed, UINT64_MAX);
}

// A good body with bytes changed at random: an answer below 500 every time, and the server lives on.
TEST_F(BadBodies, ThousandMutations) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start();
  const uint64_t seed = 42;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Rng rng(seed);
  const std::string text =
      R"({"prompt":"a\u00e9","max_tokens":4,"temperature":0.5,"stop":["a"],"logit_bias":{"5":1},"n":2,"seed":7})";
  const std::string chat =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":4,"logprobs":true,"tools":[]})";
  auto c = client();
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    const bool is_chat = rng.below(2) == 1;
    std::string body = is_chat ? chat : text;
    for (uint64_t n = 1 + rng.below(4); n > 0; --n) {
      const size_t at = rng.below(body.size());
      switch (rng.below(3)) {
        case 0:
          body[at] = static_cast<char>(rng.below(256));
          break;
        case 1:
          body.insert(at, 1, "{}[]\",:0-e\\u"[rng.below(12)]);
          break;
        default:
          body.erase(at, 1 + rng.below(5));
      }
      if (body.empty()) body = " ";
    }
    const auto reply = c.post(is_chat ? kChat : kText, body);
    ASSERT_TRUE(reply.status == 200 || (reply.status >= 400 && reply.status < 500))
        << reply.status << " " << body;
    refused += reply.status != 200;
  }
  EXPECT_GT(refused, 500);
  EXPECT_EQ(c.get("/health").status, 200);
}

}  // namespace
}  // namespace baton::coordinator
