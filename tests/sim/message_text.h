#pragma once

#include <string>

#include "transport/messages/messages.h"

namespace baton::sim {

// A message as the event log has it: everything that could differ between two runs.
std::string text(const CoordinatorMessage& message);
std::string text(const WorkerMessage& message);

}  // namespace baton::sim
