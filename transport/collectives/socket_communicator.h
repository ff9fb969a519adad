#pragma once

#include <memory>
#include <vector>

#include "transport/collectives/communicator.h"
#include "transport/collectives/rank_stream.h"

namespace baton {

// Ranks of any hosts over connected stream sockets, one for each pair (lane "socket", under TLS
// "socket-tls"). A message is a header {what, bytes} and its bytes. An all-reduce sends everything to
// everybody when it is small or between two ranks; above that each rank gets its share from everybody, adds
// it by the tree and hands it round: as many bytes as a ring, and the same bits as one rank. A rank that
// finds another gone tells the others which, then closes its connections.
//
// `streams`, by rank, own place empty: connected, non-blocking. Thread: one.
std::unique_ptr<Communicator> socket_communicator(int rank, std::vector<RankStream> streams,
                                                  Duration spin = std::chrono::microseconds(50));

}  // namespace baton
