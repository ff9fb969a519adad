#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cli/bench/load/stream_reader.h"

namespace baton::load {

// What is said of a set of measured values. Percentiles are nearest rank: the smallest value that at least
// that share of the values does not exceed. Example: of 1..200, p50 = 100, p95 = 190, p99 = 198.
struct Spread {
  size_t n = 0;
  double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;
};
Spread spread(std::vector<double> values);
double median(std::vector<double> values);

// The times of many streams put together. TTFT = first byte sent (connecting included) to the first text
// event; ITL = from one text event to the next; second = the first of those gaps. Failed streams give no
// times, dropped ones give those that they had.
struct Samples {
  std::vector<double> ttft_ms, itl_ms, second_ms;
  int64_t output_tokens = 0;
  int requests = 0;
  int dropped = 0;
  int failed = 0;
  std::string first_error;
  std::map<std::string, int> paths;                     // verdicts of the server
  std::map<std::string, std::vector<double>> stage_ms;  // as the server told them, by name

  void add(const StreamRecord& stream);
  size_t gaps_over(double ms) const;
};

}  // namespace baton::load
