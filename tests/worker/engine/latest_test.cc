#include "worker/engine/latest.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace baton::worker {
namespace {

struct Value {
  uint64_t a = 0;
  std::array<uint32_t, 33> rest{};
  char tail = 0;
};

Value value(uint64_t n) {
  Value v{.a = n, .tail = static_cast<char>(n)};
  v.rest.fill(static_cast<uint32_t>(n));
  return v;
}

TEST(Latest, GivesWhatWasStoredLast) {
  Latest<Value> latest(value(1));
  EXPECT_EQ(latest.load().a, 1u);
  latest.store(value(2));
  EXPECT_EQ(latest.load().rest[32], 2u);
  EXPECT_EQ(latest.load().tail, 2);
}

TEST(Latest, ReadersSeeWholeValuesThatNeverGoBack) {
  Latest<Value> latest(value(0));
  std::atomic<bool> torn = false;
  std::atomic<int> reading = 0;
  std::vector<std::jthread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&](const std::stop_token& stop) {
      uint64_t last = 0;
      ++reading;
      while (!stop.stop_requested()) {
        const Value v = latest.load();
        bool whole = v.a >= last && v.tail == static_cast<char>(v.a);
        for (const uint32_t r : v.rest) whole &= r == static_cast<uint32_t>(v.a);
        if (!whole) torn = true;
        last = v.a;
      }
    });
  }
  while (reading < 2) std::this_thread::yield();
  for (uint64_t n = 1; n <= 200'000; ++n) latest.store(value(n));
  readers.clear();
  EXPECT_FALSE(torn);
  EXPECT_EQ(latest.load().a, 200'000u);
}

}  // namespace
}  // namespace baton::worker
