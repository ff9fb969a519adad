#pragma once

#include <memory>

#include "transport/collectives/communicator.h"
#include "transport/collectives/shm_watch.h"

namespace baton {

// Ranks of one host over shared memory (lane "shm"): processes, or threads of one process. All ranks write to
// their slot, publish a phase, and read the others' slots. Up to 256 KiB every rank adds everything; above,
// each rank adds its share and the shares are gathered, 1 MiB at a time. Messages go through rings.
std::unique_ptr<Communicator> shm_communicator(ShmSeat seat);

}  // namespace baton
