// What clients and their libraries really send, in raw prompts, in the history of a chat and in fields that
// ask for nothing.
#include <gmock/gmock.h>

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace baton::coordinator {
namespace {

class RequestsAsSent : public GatewayTest {
 protected:
  RequestsAsSent() { port_.set_script(ScriptedPort::tokens({'o', 'k'})); }
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

}  // namespace
}  // namespace baton::coordinator
