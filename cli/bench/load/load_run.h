#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/bench/load/arrivals.h"
#include "cli/bench/load/process_meter.h"
#include "cli/bench/load/stream_client.h"

namespace baton::load {

// Requests of one kind and when they start. They are made before the clock starts; an endless group goes
// through its list again and again.
struct LoadGroup {
  std::string name;
  Arrivals arrivals;
  std::vector<StreamRequest> requests;
};

struct GroupResult {
  std::string name;
  std::vector<StreamRecord> streams;  // in the order in which they were started
};

struct LoadResult {
  std::vector<GroupResult> groups;
  Duration wall{};  // first request sent to last stream ended
  Usage usage;
  bool first_in_turn = false;  // the client did not have to wait for a core
};

// Runs groups side by side until each has ended. Groups without a count start no more when those with one
// have ended, and their open streams are read to the end. Thread: one. Borrows client and meter.
LoadResult run_load(StreamClient& client, ProcessMeter& meter, const std::vector<LoadGroup>& groups);

}  // namespace baton::load
