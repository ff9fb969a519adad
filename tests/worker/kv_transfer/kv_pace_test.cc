#include "worker/kv_transfer/kv_pace.h"

#include <gtest/gtest.h>

namespace baton::worker {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMiB = 1 << 20;

TEST(KvPace, BytesOverTheTimeInWhichAnyAreUnderWay) {
  KvPace pace;
  Instant now{100s};
  pace.offered(now);
  pace.offered(now);
  pace.answered(kMiB / 2, now + 1ms);
  EXPECT_EQ(pace.bytes_per_second(), 0) << "no sample yet";
  pace.answered(kMiB / 2, now + 2ms);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), kMiB / 2e-3);
  now += 50s;  // nothing under way: this time counts for nothing
  pace.offered(now);
  pace.answered(kMiB, now + 1ms);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), 1.2 * kMiB / 2e-3) << "a later sample counts a fifth";
}

TEST(KvPace, WhatIsGivenUpEndsTheTimeButBringsNoBytes) {
  KvPace pace;
  const Instant now{100s};
  pace.offered(now);
  pace.dropped();
  pace.offered(now + 10s);
  pace.answered(kMiB, now + 10s + 1ms);
  EXPECT_DOUBLE_EQ(pace.bytes_per_second(), kMiB / 1e-3);
}

}  // namespace
}  // namespace baton::worker
