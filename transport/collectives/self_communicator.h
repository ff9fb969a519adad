#pragma once

#include <memory>

#include "transport/collectives/communicator.h"

namespace baton {

// A group of one rank: every collective is done when it is called. A message to itself is an error.
std::unique_ptr<Communicator> self_communicator();

}  // namespace baton
