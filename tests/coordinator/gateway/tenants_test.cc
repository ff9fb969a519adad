// What a tenant's key does to its requests, through the whole gateway.
#include <gtest/gtest.h>

#include <fstream>

#include "base/cat.h"
#include "coordinator/gateway/access.h"
#include "tests/coordinator/gateway/gateway_fixture.h"
#include "tests/support/temp_dir.h"

namespace baton::coordinator {
namespace {

class TenantsTest : public GatewayTest {
 protected:
  ~TenantsTest() override { stop(); }

  void start_with_keys(int requests_per_tenant = 0) {
    const std::string file = folder_.file("keys.txt");
    std::ofstream(file) << ApiKeys::line_of("key-a", {.tenant = "alice"}) << "\n"
                        << ApiKeys::line_of("key-b", {.tenant = "bob"}) << "\n";
    access_ = *Access::create({.keys_file = file, .requests_per_tenant = requests_per_tenant});
    admit_ = [this](RouteRole role, HttpRequest& r) { return access_->admit(role, r, clock_.now()); };
    start();
  }
  LoopbackClient::Reply complete(const std::string& key, const std::string& more = "") {
    auto c = client();
    return c.post("/v1/completions", cat(R"({"prompt":"a","max_tokens":1)", more, "}"),
                  cat("Authorization: Bearer ", key, "\r\n"));
  }

  support::TempDir folder_{"tenants"};
  std::unique_ptr<Access> access_;
};

// How long a prompt takes tells whether somebody asked it before: only one's own tenant may learn that.
TEST_F(TenantsTest, PrefixesAreSharedInsideATenantOnly) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start_with_keys();
  const auto salt = [&](const std::string& key, const std::string& more = "") {
    EXPECT_EQ(complete(key, more).status, 200);
    return port_.last().request.tenant_salt;
  };
  EXPECT_EQ(salt("key-a"), salt("key-a"));
  EXPECT_NE(salt("key-a"), salt("key-b"));
  EXPECT_NE(salt("key-a"), salt("key-a", R"(,"cache_salt":"x")"));
  EXPECT_NE(salt("key-a", R"(,"cache_salt":"bob")"), salt("key-b"));
  EXPECT_NE(salt("key-b", R"(,"cache_salt":"\nbob\n")"), salt("key-b"));
}

TEST_F(TenantsTest, TheRecordOfACallNamesItsTenant) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start_with_keys();
  EXPECT_EQ(complete("key-b").status, 200);
  EXPECT_EQ(record(0).tenant, "bob");
  EXPECT_EQ(complete("key-b", R"(,"n":-1)").status, 400);
  EXPECT_EQ(record(1).tenant, "bob");
  EXPECT_EQ(complete("nobody").status, 401);
  EXPECT_EQ(client().get("/health").status, 200);
}

TEST_F(TenantsTest, ARequestCountsUntilItIsAnsweredOrItsClientHasGone) {
  start_with_keys(1);
  auto waiting = client();
  waiting.send(LoopbackClient::post_text("/v1/completions", R"({"prompt":"a"})", "X-Api-Key: key-a\r\n"));
  ASSERT_TRUE(soon([&] { return port_.count() == 1; }));
  const auto refused = complete("key-a");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.fields.count("retry-after"), 1u);
  EXPECT_EQ(json(refused.body).at("error").at("code"), "rate_limit_exceeded");
  port_.set_script(ScriptedPort::tokens({'o'}));
  EXPECT_EQ(complete("key-b").status, 200);
  waiting.close();
  EXPECT_TRUE(soon([&] { return complete("key-a").status == 200; }));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(complete("key-a").status, 200);
}

// One that stops in the middle of its body takes nothing from its tenant once it has gone.
TEST_F(TenantsTest, ABodyThatNeverComesGivesItsPlaceBack) {
  port_.set_script(ScriptedPort::tokens({'o'}));
  start_with_keys(1);
  auto half = client();
  half.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Api-Key: key-a\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_TRUE(soon([&] { return complete("key-a").status == 429; }));
  half.close();
  EXPECT_TRUE(soon([&] { return complete("key-a").status == 200; }));
}

}  // namespace
}  // namespace baton::coordinator
