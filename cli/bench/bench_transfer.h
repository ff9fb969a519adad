#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/bench/bench_commands.h"

namespace baton::cli {

// One way of moving bytes, at one size of piece. Rates are medians over the repetitions; ratios are medians
// of the ratios inside a repetition, where the two were measured one after the other.
struct TransferRow {
  std::string lane;  // memcpy, memcpy_nt, rawsocket: baselines; local, socket, am, get: as workers move KV
  uint64_t piece_bytes = 0;
  double gb_s = 0;          // 1e9 bytes a second
  double cpu_s_per_gb = 0;  // of both processes
  std::string baseline;     // what the lane is held against; empty for baselines
  double of_baseline = 0;   // its rate as a share of that
  // Of the time: with checksums / without - 1; of lanes that go without (docs/adr/0004).
  std::optional<double> checksum_cost;
  int repetitions = 0;
};

struct TransferBenchReport {
  std::vector<int> cores;  // sender, receiver; empty: not pinned
  std::string to;          // the other machine; empty: both are here
  uint64_t pool_bytes = 0;
  std::string congestion_control;  // of TCP, where the sender is
  std::vector<TransferRow> rows;
};

// Moves random cold pieces between two processes, over each lane and as the baselines do. Errors: a lane that
// cannot be had, a size that is no multiple of 64 bytes, processes that die.
absl::StatusOr<TransferBenchReport> measure_transfer(const BenchTransferOptions& options);

std::string to_json(const TransferBenchReport& report);
std::string to_table(const TransferBenchReport& report);

}  // namespace baton::cli
