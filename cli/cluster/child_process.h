#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace baton::cli {

// A process of this same binary that a command starts.
struct ChildProcess {
  std::vector<std::string> arguments;                              // after the binary
  std::string output_file;                                         // stdout and stderr go there
  int report_fd = -1;                                              // handed down as descriptor 3; -1: none
  std::vector<int> cpus;                                           // empty: wherever this process may run
  std::vector<std::pair<std::string, std::string>> environment{};  // set beside what is there
};

// Forks and executes; the child gets SIGTERM when this process dies, and a process group of its own. Call it
// while no other thread runs. Returns the pid. kResourceExhausted when the system has no room for another
// process: a limit of processes, or memory.
absl::StatusOr<int> start_child(const ChildProcess& child);

// Starts a coordinator and reads the addresses it reports, for at most `limit`. `child` has no report
// descriptor yet. kUnavailable when it ends or says nothing.
struct CoordinatorReport {
  int pid = 0;
  std::string http, membership;  // host:port
};
absl::StatusOr<CoordinatorReport> start_coordinator(ChildProcess child, Duration limit);

// What a signal that leaves a process no last words usually means; empty when it says enough itself.
const char* signal_text(int signal);
// The last line of a child's output file that says something.
std::string last_words(const std::string& output_file);

}  // namespace baton::cli
