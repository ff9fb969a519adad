#include "cli/bench/bench_collectives.h"

#include <gtest/gtest.h>

#include <set>

namespace baton::cli {
namespace {

TEST(BenchCollectives, EveryLaneOperationAndSizeHasARowBesideTheBaseline) {
  const auto rows = measure_collectives({.ranks = {2, 3}, .bytes = {64, 4096}, .calls = 30});
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::multiset<std::string> seen;
  for (const CollectiveRow& r : *rows) {
    EXPECT_GT(r.p50_us, 0) << r.op;
    EXPECT_GE(r.p99_us, r.p50_us) << r.op;
    EXPECT_EQ(r.calls, 30);
    seen.insert(r.op + "/" + r.lane + "/" + std::to_string(r.ranks));
  }
  EXPECT_EQ(seen.count("store_load/memory/2"), 2);
  for (const char* lane : {"shm", "socket", "socket-tls"})
    for (const char* ranks : {"2", "3"}) {
      for (const char* op : {"all_reduce", "all_gather", "broadcast", "ping_pong"})
        EXPECT_EQ(seen.count(std::string(op) + "/" + lane + "/" + ranks), 2) << op << lane << ranks;
      EXPECT_EQ(seen.count(std::string("barrier/") + lane + "/" + ranks), 1);
    }
}

}  // namespace
}  // namespace baton::cli
