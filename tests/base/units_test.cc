#include "base/units.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

using namespace std::chrono_literals;

TEST(Units, ReadsSizes) {
  EXPECT_EQ(parse_bytes("4Gi"), 4ull << 30);
  EXPECT_EQ(parse_bytes("512Mi"), 512ull << 20);
  EXPECT_EQ(parse_bytes("1.5K"), 1500u);
  EXPECT_EQ(parse_bytes("0"), 0u);
  for (const char* bad :
       {"", "Gi", "-1", "4GiB", "4 Gi", "1e400", "nan", "inf", "99999999999999999999Ti", "0x10"})
    EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
}

TEST(Units, ReadsDurationsOnlyWithAUnit) {
  EXPECT_EQ(parse_duration("500ms"), Duration(500ms));
  EXPECT_EQ(parse_duration("1.5s"), Duration(1500ms));
  EXPECT_EQ(parse_duration("10m"), Duration(10min));
  EXPECT_EQ(parse_duration("250us"), Duration(250us));
  for (const char* bad : {"", "5", "ms", "-5s", "5 s", "5d", "1e300h"})
    EXPECT_EQ(parse_duration(bad), std::nullopt) << bad;
}

TEST(Units, WritesForPeople) {
  EXPECT_EQ(format_bytes(512ull << 20), "512 MiB");
  EXPECT_EQ(format_bytes(12), "12 B");
  EXPECT_EQ(format_bytes(1023 * 1024), "1023 KiB");
  EXPECT_EQ(format_duration(1500ms), "1.5 s");
  EXPECT_EQ(format_duration(30min), "1800 s");
  EXPECT_EQ(format_duration(12ms), "12 ms");
}

TEST(Units, FindsTheNameThatWasMeant) {
  const std::vector<std::string> names{"replicas", "role", "device"};
  EXPECT_EQ(nearest_name("replica", names), "replicas");
  EXPECT_EQ(nearest_name("rolle", names), "role");
  EXPECT_EQ(nearest_name("xyzzyx", names), std::nullopt);
}

}  // namespace
}  // namespace baton
