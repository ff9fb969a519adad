#include "coordinator/gateway/api_keys.h"

#include <gmock/gmock.h>

#include "base/cat.h"

namespace baton::coordinator {
namespace {

using testing::HasSubstr;
using testing::Not;

// SHA-256 of "abc", FIPS 180-2 appendix B.1.
constexpr const char* kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(ApiKeysTest, AFileOpensToThoseWhoHaveAKeyOfIt) {
  const auto keys = ApiKeys::parse(cat("# who may\n\n  alice\tsha256:", kAbc, "  # her laptop\r\n",
                                       ApiKeys::line_of("second", {.tenant = "alice"}), "\n",
                                       ApiKeys::line_of("third", {.tenant = "ops", .is_operator = true})),
                                   "keys.txt");
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 3u);
  for (const char* key : {"abc", "second"}) {
    ASSERT_NE(keys->find(key), nullptr) << key;
    EXPECT_EQ(keys->find(key)->tenant, "alice");
    EXPECT_FALSE(keys->find(key)->is_operator);
  }
  EXPECT_TRUE(keys->find("third")->is_operator);
  for (const char* key : {"", "ab", "abcd", "ABC", kAbc}) EXPECT_EQ(keys->find(key), nullptr) << key;
}

TEST(ApiKeysTest, EveryWrongLineIsNamedAndNoneRepeated) {
  const std::string hash = cat("sha256:", kAbc);
  const auto keys =
      ApiKeys::parse(cat("a b/c ", hash, "\n",         // 1: no hash where it should be
                         "bad/name ", hash, "\n",      // 2
                         "a sk-my-secret-key\n",       // 3
                         "a ", hash, " admin\n",       // 4
                         "a ", hash, " operator x\n",  // 5
                         "good ", hash, "\n",          // 6
                         "other ", hash, "\n",         // 7: twice
                         "a sha256:", std::string(63, 'a'), "g\n", std::string(64, 'n'), " ", hash),
                     "keys.txt");
  ASSERT_FALSE(keys.ok());
  const std::string why(keys.status().message());
  for (const int line : {1, 2, 3, 4, 5, 7, 8, 9}) EXPECT_THAT(why, HasSubstr(cat("keys.txt:", line, ": ")));
  EXPECT_THAT(why, Not(HasSubstr("keys.txt:6:")));
  EXPECT_THAT(why, Not(HasSubstr("secret")));
}

TEST(ApiKeysTest, AFileWithoutAKeyLetsNobodyIn) {
  for (const char* text : {"", "\n# nothing\n"}) {
    const auto keys = ApiKeys::parse(text, "keys.txt");
    ASSERT_FALSE(keys.ok());
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr("baton key keys.txt TENANT"));
  }
}

TEST(ApiKeysTest, NewKeysHaveAllTheirRandomBits) {
  uint64_t word = 0;
  const std::string key = ApiKeys::make([&] { return ++word; });
  EXPECT_EQ(key, "baton-0000000000000001000000000000000200000000000000030000000000000004");
}

}  // namespace
}  // namespace baton::coordinator
