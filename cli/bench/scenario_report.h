#pragma once

#include <boost/json/object.hpp>
#include <string>

#include "cli/bench/scenarios.h"

namespace baton::cli {

// A scenario as JSON: name, what, settings, summary, the measures of its first phase, and all phases with
// theirs. docs in benchmarks/load/README.md.
boost::json::object scenario_json(const ScenarioResult& result);

// The same for people: a line a phase, then the summary.
std::string scenario_table(const ScenarioResult& result);

// The machine and the build that the figures belong to.
boost::json::object machine_json();

}  // namespace baton::cli
