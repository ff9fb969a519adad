#include "transport/collectives/thread_ranks.h"

#include "transport/collectives/self_communicator.h"
#include "transport/collectives/shm_communicator.h"

namespace baton {

absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> thread_ranks(int size, Duration spin) {
  std::vector<std::unique_ptr<Communicator>> ranks;
  if (size == 1) {
    ranks.push_back(self_communicator());
    return ranks;
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<ShmRegion> region, ShmRegion::create(size));
  std::vector<LifeLine> lines(size);
  for (LifeLine& line : lines) {
    ASSIGN_OR_RETURN(line, LifeLine::make());
  }
  for (int r = 0; r < size; ++r) {
    ShmSeat seat{.rank = r, .region = region, .own_line = std::move(lines[r].held), .spin = spin};
    seat.lines.resize(size);
    for (int other = 0; other < size; ++other) {
      if (other == r) continue;
      ASSIGN_OR_RETURN(seat.lines[other], lines[other].watched.duplicate());
    }
    ranks.push_back(shm_communicator(std::move(seat)));
  }
  return ranks;
}

}  // namespace baton
