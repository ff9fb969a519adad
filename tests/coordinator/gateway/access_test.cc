#include "coordinator/gateway/access.h"

#include <gmock/gmock.h>

#include <fstream>

#include "base/cat.h"
#include "tests/support/temp_dir.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class AccessTest : public testing::Test {
 protected:
  // A file that somebody wrote anew: another one, as a renamed one is.
  void write_keys(const std::string& text) {
    const std::string fresh = folder_.file("fresh");
    std::ofstream(fresh) << text;
    std::filesystem::rename(fresh, file_);
  }
  void open(AccessOptions options = {}) {
    options.keys_file = file_;
    open_with(std::move(options));
  }
  void open_with(AccessOptions options) {
    options.is_local = [](const std::string& client) { return client == "127.0.0.1"; };
    auto access = Access::create(std::move(options));
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
  }
  static HttpRequest request(const std::string& field, const std::string& value) {
    HttpRequest out{.path = "/v1/models", .client = "10.0.0.9"};
    if (!field.empty()) out.fields.push_back({field, value});
    return out;
  }
  // 200: admitted.
  int ask(RouteRole role, const std::string& key) {
    HttpRequest r = request("authorization", "Bearer " + key);
    return ask(role, r);
  }
  int ask(RouteRole role, HttpRequest& r) {
    const auto refused = access_->admit(role, r, now_);
    return refused ? refused->status : 200;
  }

  support::TempDir folder_{"access"};
  const std::string file_ = folder_.file("keys.txt");
  const std::string user_ = ApiKeys::line_of("user-key", {.tenant = "alice"}) + "\n";
  const std::string operator_ = ApiKeys::line_of("ops-key", {.tenant = "ops", .is_operator = true}) + "\n";
  std::unique_ptr<Access> access_;
  Instant now_ = Instant{} + 1h;
};

TEST_F(AccessTest, WithoutKeysUsersAreAllAndOperatorsAreLocal) {
  open_with({});
  HttpRequest far = request("", "");
  EXPECT_EQ(ask(RouteRole::kPublic, far), 200);
  EXPECT_EQ(ask(RouteRole::kUser, far), 200);
  EXPECT_EQ(ask(RouteRole::kOperator, far), 403);
  far.client = "127.0.0.1";
  EXPECT_EQ(ask(RouteRole::kOperator, far), 200);
  EXPECT_EQ(far.tenant, "");
}

// Every role of route by every kind of caller; being on the machine is no key.
TEST_F(AccessTest, WithKeysEveryRouteButProbesWantsOne) {
  write_keys(user_ + operator_);
  open({.local_key = "local-key"});
  const auto all = [&](const std::string& key) {
    return std::array{ask(RouteRole::kPublic, key), ask(RouteRole::kUser, key),
                      ask(RouteRole::kOperator, key)};
  };
  EXPECT_EQ(all("user-key"), (std::array{200, 200, 403}));
  EXPECT_EQ(all("ops-key"), (std::array{200, 200, 200}));
  EXPECT_EQ(all("local-key"), (std::array{200, 200, 200}));
  EXPECT_EQ(all("unknown"), (std::array{200, 401, 401}));
  EXPECT_EQ(all(""), (std::array{200, 401, 401}));
  HttpRequest near = request("", "");
  near.client = "127.0.0.1";
  EXPECT_EQ(ask(RouteRole::kUser, near), 401);
  EXPECT_EQ(ask(RouteRole::kOperator, near), 401);
}

TEST_F(AccessTest, KeysAreReadWhereClientsPutThem) {
  write_keys(user_);
  open();
  for (const auto& [field, value, status] : {std::tuple{"authorization", "Bearer user-key", 200},
                                             {"authorization", "bearer   user-key", 200},
                                             {"x-api-key", "user-key", 200},
                                             {"authorization", "Basic user-key", 401},
                                             {"authorization", "user-key", 401},
                                             {"authorization", "Bearer user-key2", 401},
                                             {"authorization", "Bearer", 401},
                                             {"x-api-key", "Bearer user-key", 401},
                                             {"cookie", "user-key", 401}}) {
    HttpRequest r = request(field, value);
    EXPECT_EQ(ask(RouteRole::kUser, r), status) << field << ": " << value;
    EXPECT_EQ(r.tenant, status == 200 ? "alice" : "");
  }
}

TEST_F(AccessTest, RefusalsSayWhatIsWanted) {
  write_keys(user_);
  open();
  HttpRequest r = request("", "");
  const auto missing = access_->admit(RouteRole::kUser, r, now_);
  EXPECT_EQ(missing->code, "missing_api_key");
  EXPECT_THAT(missing->message, HasSubstr("Authorization: Bearer"));
  r = request("x-api-key", "guess");
  const auto wrong = access_->admit(RouteRole::kUser, r, now_);
  EXPECT_EQ(wrong->code, "invalid_api_key");
  EXPECT_EQ(wrong->message.find("guess"), std::string::npos);
  const HttpAnswer answer = error_answer(*wrong, {});
  EXPECT_TRUE(
      std::ranges::any_of(answer.fields, [](const HttpField& f) { return f.name == "www-authenticate"; }));
}

// A change of keys: the new one is let in beside the old one, then the old one no more.
TEST_F(AccessTest, AChangedFileHoldsWithinASecond) {
  write_keys(user_);
  open();
  const std::string next = ApiKeys::line_of("next-key", {.tenant = "alice"}) + "\n";
  EXPECT_EQ(ask(RouteRole::kUser, "next-key"), 401);
  write_keys(user_ + next);
  now_ += 1s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200);
  EXPECT_EQ(ask(RouteRole::kUser, "next-key"), 200);
  write_keys(next);
  now_ += 1s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 401);
  EXPECT_EQ(ask(RouteRole::kUser, "next-key"), 200);
}

TEST_F(AccessTest, AFileThatBecameWrongChangesNothing) {
  write_keys(user_);
  open();
  for (const char* text : {"", "what is this\n"}) {
    write_keys(text);
    now_ += 1s;
    EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200) << text;
  }
  std::filesystem::remove(file_);
  now_ += 1s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200);
  write_keys(operator_);
  now_ += 1s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 401);
}

TEST_F(AccessTest, AServerWithoutItsFileDoesNotStart) {
  const auto access = Access::create({.keys_file = file_});
  ASSERT_FALSE(access.ok());
  EXPECT_THAT(std::string(access.status().message()), HasSubstr(file_));
}

// Keys of one tenant count together; others are not held up, and what ended makes room.
TEST_F(AccessTest, ATenantHasSoManyRequestsAtOnce) {
  write_keys(user_ + operator_ + ApiKeys::line_of("other-key", {.tenant = "alice"}));
  open({.requests_per_tenant = 2});
  std::vector<HttpRequest> open_requests;
  const auto start = [&](const std::string& key) {
    HttpRequest r = request("x-api-key", key);
    const int status = ask(RouteRole::kUser, r);
    open_requests.push_back(std::move(r));
    return status;
  };
  EXPECT_EQ(start("user-key"), 200);
  EXPECT_EQ(start("other-key"), 200);
  EXPECT_EQ(start("user-key"), 429);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(start("ops-key"), 200) << "operators are not counted";
  open_requests[0].ticket.reset();
  EXPECT_EQ(start("other-key"), 200);
  EXPECT_EQ(start("other-key"), 429);
  open_requests.clear();
  EXPECT_EQ(start("user-key"), 200);
}

// A minute's tokens at once, then as many as come back; what one request costs beyond is waited for.
TEST_F(AccessTest, ATenantHasSoManyTokensAMinute) {
  write_keys(user_ + operator_ + ApiKeys::line_of("bob-key", {.tenant = "bob"}));
  open({.tokens_per_minute = 600});
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200);
  access_->spent("alice", 600, now_);
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200) << "its last token";
  access_->spent("alice", 100, now_);
  HttpRequest r = request("x-api-key", "user-key");
  const auto refused = access_->admit(RouteRole::kUser, r, now_);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_NEAR(to_seconds(refused->retry_after), 10, 0.01);
  EXPECT_EQ(ask(RouteRole::kUser, "bob-key"), 200);
  access_->spent("ops", 1'000'000, now_);
  EXPECT_EQ(ask(RouteRole::kUser, "ops-key"), 200);
  now_ += 9s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 429);
  now_ += 2s;
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 200);
  now_ += 1h;  // what is not used does not pile up
  access_->spent("alice", 601, now_);
  EXPECT_EQ(ask(RouteRole::kUser, "user-key"), 429);
}

}  // namespace
}  // namespace baton::coordinator
