#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "kernels/device_stream.h"
#include "transport/collectives/communicator.h"
#include "transport/collectives/nccl_library.h"

namespace baton {

// Ranks with a GPU each, over NCCL (lane "nccl"). Spans are memory of the device. A call is enqueued on
// `stream`, behind the kernels that made what it sends, and waited for by polling: it returns when it is
// done.
//
// Bits: broadcast, all-gather and messages move bits. all_reduce adds in an order of NCCL's own, which
// depends on sizes, ranks and topology, not by the tree that the interface promises elsewhere: a group that
// promises the bits of one rank does not call it (docs/adr/0015).
//
// A rank that is gone, a deadline, interrupt(): the communicator is aborted (its kernels end, what follows on
// the stream still runs on worthless numbers), and broken for good. Who is gone is what `host` knows: the
// same ranks over host memory, by whose handshake this group was formed and whose life lines are looked at
// while it waits.
//
// Thread: the stream's; interrupt() any. Borrows library, stream, clock; owns `host`.
struct NcclParts {
  std::shared_ptr<NcclLibrary> library;
  std::unique_ptr<Communicator> host;
  kernels::DeviceStream& stream;
  const Clock& clock;
  std::string device;  // a word for the GPU that is unlike all others, its UUID
};

// Every rank of `host` calls this. Rank 0 draws the id; versions and devices are compared first, since NCCL's
// own errors do not say which rank is different.
absl::StatusOr<std::unique_ptr<Communicator>> form_nccl(NcclParts parts, Instant deadline);

}  // namespace baton
