#pragma once

#include <memory>
#include <string>

#include "base/ids.h"
#include "base/status.h"
#include "transport/collectives/communicator.h"
#include "transport/collectives/life_line.h"
#include "transport/tls/tls_stream.h"

namespace baton {

// kAuto: shared memory when all ranks share a host (kernel and network namespace), else sockets. What is
// asked for and cannot be had is an error.
enum class GroupLane { kAuto, kShm, kSocket };

struct GroupOptions {
  std::string group;          // the same words on every rank: cluster, worker
  std::string build;          // model, shape, version: whatever must be equal for ranks to work together
  Incarnation incarnation{};  // rank 0 gives it; another rank may want a certain one, or (0) takes rank 0's
  int rank = 0;
  int size = 1;
  std::string rendezvous;             // where rank 0 listens: "host:port", or on one host "unix:@name"
  const OwnedFd* listener = nullptr;  // of rank 0 when it listens there already
  GroupLane lane = GroupLane::kAuto;
  Instant deadline{};
  Communicator* within =
      nullptr;  // of a part of a group: the group; when it has lost a rank, nobody waits for it
  const transport::TlsContext* tls = nullptr;     // every connection but those inside a host is under it
  Duration patience = std::chrono::seconds(10);   // a rank that does not read for so long is not lost
  Duration spin = std::chrono::microseconds(-1);  // before a wait sleeps; -1: 50 us, 0 on too few cores
};

struct Group {
  std::unique_ptr<Communicator> communicator;
  Incarnation incarnation;
  std::string host;  // this rank's own address towards the others; empty after a rendezvous at unix:@name
};

// Every rank of a group calls this; it returns when all are there and have met once. Rank 0 listens, the
// others come in any order, again and again until it does. Who has another protocol, build, size, incarnation
// or a rank that is taken is told so (kFailedPrecondition) and does not disturb the others; who leaves
// meanwhile, at whatever point, may come again: the others begin anew. At the deadline rank 0 names the ranks
// that did not come (kDeadlineExceeded).
//
// With `tls` every TCP connection is under mutual TLS, and who has another CA's certificate, one that has
// expired or carries another name, or no TLS, is refused; nothing falls back. Without, sockets are plain and
// unauthenticated: a rendezvous off loopback belongs on a private network. "unix:" is for processes of one
// user. Thread: any.
absl::StatusOr<Group> form_group(const GroupOptions& options);

}  // namespace baton
