#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"

namespace baton::cli {

// SIGINT and SIGTERM end a process in order: they are blocked in every thread and waited for in main. SIGPIPE
// is ignored. Call before the first thread starts.
void block_end_signals();
// The signal that came, or 0 after `limit`. Thread: main.
int wait_for_signal(Duration limit);

// Where a process called `name` logs: to its own file in `log_dir`, or to stderr (empty) when there is none.
std::string log_file(const std::string& log_dir, const std::string& name);

// The places where a process gets chance and wall time from (design I6): handed to those that need them.
std::function<uint64_t()> random_source();
std::function<int64_t()> unix_time_source();

}  // namespace baton::cli
