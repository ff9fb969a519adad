#pragma once

#include <compare>
#include <functional>
#include <map>

#include "worker/kv_cache/kv_exchange.h"
#include "worker/kv_transfer/kv_part.h"

namespace baton::worker {

// One rank's share of a hand-over with one rank of the other worker. Two ranks have at most one in common
// (kv_reslice.h), so transfer and peer name it.
struct KvStream {
  TransferId transfer;
  WorkerRef peer;
  friend auto operator<=>(const KvStream&, const KvStream&) = default;
};

// What a stream moves, and with whom.
struct KvLink {
  WorkerRef peer;
  KvPart part;
  friend bool operator==(const KvLink&, const KvLink&) = default;
};

// What became of the stream with `peer`.
using KvStreamEvents = std::function<void(const WorkerRef& peer, KvEvent event)>;

// Calls each(iterator) for all streams of `transfer`; it may erase the one it is given.
template <class Streams, class Each>
void for_streams(Streams& streams, TransferId transfer, Each each) {
  for (auto it = streams.lower_bound({transfer, {}}); it != streams.end() && it->first.transfer == transfer;)
    each(it++);
}

}  // namespace baton::worker
