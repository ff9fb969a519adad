#pragma once

#include <functional>
#include <string>

#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::cli {

// For tests that kill a process in a phase of a hand-over and want to hit it for certain
// (tests/e2e/hand_over_faults_test.py). While BATON_TEST_PAUSE names a file that says "PHASE MILLISECONDS"
// (grant, transfer or last_layer), the progress thread of `process` waits so long once in each hand-over that
// comes there, after it has added a line with its name to the file of that name with ".hit" at its end. Empty
// without the variable. Thread: progress.
std::function<void(worker::KvPhase, TransferId)> pause_point(const std::string& process);

}  // namespace baton::cli
