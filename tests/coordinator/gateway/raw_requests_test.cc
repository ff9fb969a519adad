#include "tests/coordinator/gateway/raw_requests.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "coordinator/gateway/head_check.h"

namespace baton::coordinator {
namespace {

// Feeds `bytes` in pieces of at most `piece`, as one connection would see them.
std::vector<int> verdicts_of(const std::string& bytes, size_t piece) {
  std::vector<int> verdicts;
  HeadCheck check;
  size_t at = 0;
  while (at < bytes.size()) {
    at += check.feed(std::string_view(bytes).substr(at, piece));
    if (check.rejected()) {
      verdicts.push_back(check.status());
      EXPECT_FALSE(check.reason().empty());
      EXPECT_EQ(check.feed("GET"), 0u);
      return verdicts;
    }
    if (!check.complete()) continue;
    verdicts.push_back(200);
    if (at == bytes.size()) return verdicts;
    check = HeadCheck();
  }
  verdicts.push_back(0);
  return verdicts;
}

TEST(RawRequests, WholeAndInPieces) {
  const auto cases = raw_requests();
  EXPECT_GE(cases.size(), 200u);
  for (const auto& c : cases) {
    EXPECT_EQ(verdicts_of(c.bytes, c.bytes.size() + 1), c.verdicts) << c.name;
    EXPECT_EQ(verdicts_of(c.bytes, 1), c.verdicts) << c.name << ", byte by byte";
    if (c.bytes.size() < 50000) {
      EXPECT_EQ(verdicts_of(c.bytes, 7), c.verdicts) << c.name << ", 7 bytes each";
    }
  }
}

TEST(RawRequests, NamesAreUnique) {
  auto cases = raw_requests();
  std::sort(cases.begin(), cases.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twin = std::adjacent_find(cases.begin(), cases.end(),
                                       [](const auto& a, const auto& b) { return a.name == b.name; });
  EXPECT_EQ(twin, cases.end()) << twin->name;
}

TEST(HeadCheck, SaysWhatItRead) {
  HeadCheck check;
  const std::string bytes =
      "POST http://h:1/a?b=c HTTP/1.1\r\nHost: h:1\r\nTransfer-Encoding: chunked\r\nConnection: x, Close\r\n"
      "Expect: 100-Continue\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\nrest";
  EXPECT_EQ(check.feed(bytes), bytes.size() - 4);
  ASSERT_TRUE(check.complete());
  EXPECT_EQ(check.method(), "POST");
  EXPECT_EQ(check.target(), "/a?b=c");
  EXPECT_TRUE(check.chunked());
  EXPECT_TRUE(check.expects_continue());
  EXPECT_FALSE(check.keep_alive());
  EXPECT_EQ(check.take_body(), "abcde");
}

TEST(HeadCheck, LimitsAreOptions) {
  HeadCheck check({.head_bytes = 64, .fields = 1, .url_bytes = 8, .body_bytes = 3});
  check.feed("POST /123456 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
  EXPECT_EQ(check.status(), 431);
  HeadCheck body({.body_bytes = 3});
  body.feed("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(body.status(), 413);
}

// Whatever the bytes are: the verdict does not depend on the cuts, and what is taken never exceeds what is
// there.
TEST(HeadCheck, RandomBytesAndMutations) {
  const uint64_t seed = 20240611;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Rng rng(seed);
  auto cases = raw_requests();
  std::erase_if(cases, [](const auto& c) { return c.bytes.size() > 600 || c.bytes.empty(); });
  constexpr char kSpice[] = "\r\n\0 \t:;=\"0x9afg,\x80\xffGH";
  const std::string spice(kSpice, sizeof kSpice - 1);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = cases[rng.below(cases.size())].bytes;
    for (uint64_t i = rng.below(4); i > 0; --i) {
      const size_t at = rng.below(bytes.size());
      const char c = spice[rng.below(spice.size())];
      switch (rng.below(3)) {
        case 0:
          bytes[at] = c;
          break;
        case 1:
          bytes.insert(at, 1, c);
          break;
        default:
          if (bytes.size() > 1) bytes.erase(at, 1);
      }
    }
    const auto whole = verdicts_of(bytes, bytes.size());
    ASSERT_EQ(verdicts_of(bytes, 1), whole) << testing::PrintToString(bytes);
    ASSERT_EQ(verdicts_of(bytes, 1 + rng.below(9)), whole) << testing::PrintToString(bytes);
  }
}

TEST(RequestId, Alphabet) {
  EXPECT_TRUE(valid_request_id("a.B_9-"));
  EXPECT_TRUE(valid_request_id(std::string(64, 'a')));
  EXPECT_FALSE(valid_request_id(std::string(65, 'a')));
  EXPECT_FALSE(valid_request_id(""));
  EXPECT_FALSE(valid_request_id("a b"));
  EXPECT_FALSE(valid_request_id("a\r\n"));
}

}  // namespace
}  // namespace baton::coordinator
