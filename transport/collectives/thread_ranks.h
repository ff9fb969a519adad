#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "transport/collectives/communicator.h"

namespace baton {

// The ranks of a group as threads of this process: communicator r is for the thread of rank r. The same code
// and the same memory as between processes (lane "shm"); one rank gets lane "self". A rank "dies" when its
// communicator is destroyed. For tests and benchmarks.
//
//   auto ranks = thread_ranks(2).value();
//   std::jthread other([&] { ranks[1]->barrier(deadline).IgnoreError(); });
//   ranks[0]->barrier(deadline).IgnoreError();
absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> thread_ranks(
    int size, Duration spin = std::chrono::microseconds(50));

}  // namespace baton
