#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/bench/load/load_run.h"
#include "cli/bench/load/samples.h"
#include "cli/bench/load/word_prompts.h"

namespace baton::cli {

// One measured stretch of a scenario: streams of one kind, and what the machine spent meanwhile.
struct Phase {
  std::string name;
  load::Samples samples;
  double seconds = 0;
  load::Usage usage;
  bool client_first = false;  // the client went before all ordinary threads
};

struct ScenarioResult {
  std::string name;
  std::string what;
  boost::json::object settings;
  std::vector<Phase> phases;    // the first is the one that the scenario is about
  boost::json::object summary;  // the figures that are compared with other servers

  int failed() const;
};

// What a scenario runs against.
struct ScenarioWorld {
  load::StreamClient& client;
  load::ProcessMeter& meter;
  const load::WordPrompts& prompts;
  uint64_t seed = 1;
  double scale = 1;  // of counts of requests, repeats and arrivals; lengths stay
  std::string salt;  // prompts of this run share cached blocks with no other run's
};

// The scenarios of benchmarks/load/README.md: S1 to S7 and idle. Each is a pure function of the seed but for
// what the server does. Thread: one.
ScenarioResult run_scenario(const std::string& name, ScenarioWorld& world);

// One request that is not measured: the first one of a cluster touches its memory.
absl::Status warm_up(ScenarioWorld& world);

// "S1..S3,G" -> {S1, S2, S3, G}; "all" is every one but idle. kInvalidArgument for a name that is none.
absl::StatusOr<std::vector<std::string>> parse_scenarios(const std::string& list);

// The streams of a finished group as a phase.
Phase phase_of(const load::LoadResult& run, size_t group);

// At least `least`, and never more than `full`.
int scaled(int full, double scale, int least = 1);

}  // namespace baton::cli
