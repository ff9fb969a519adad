#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/bench/bench_commands.h"

namespace baton::cli {

// One line of the report: a call as rank 0 sees it. Of "broadcast" the sender's time (it
// may be ahead of its readers), of "ping_pong" half a round trip; "store_load" is the
// baseline of the same run: two processes, each stores its bytes, raises a flag, waits for the other's and
// adds, with no check at all.
struct CollectiveRow {
  std::string op;  // all_reduce, all_gather, broadcast, barrier, ping_pong, store_load
  std::string lane;
  int ranks = 0;
  uint64_t bytes = 0;  // of one rank
  int calls = 0;
  double p50_us = 0;
  double p99_us = 0;
};

// Forks the ranks, each pinned to a core of its own while there are enough. Thread: main, before any other.
absl::StatusOr<std::vector<CollectiveRow>> measure_collectives(const BenchCollectivesOptions& options);

}  // namespace baton::cli
