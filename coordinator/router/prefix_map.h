#pragma once

#include <cstdint>
#include <map>
#include <span>

#include "absl/container/flat_hash_set.h"
#include "base/block_hash.h"
#include "transport/messages/messages.h"

namespace baton::coordinator {

// Which prompt prefixes each worker holds, exactly: workers publish every block they store and evict, in
// order, on the stream that also carries their tokens. A block's hash covers all that precedes it, so "the
// longest run of known hashes from the first block on" is the cached prefix.
//
//   block_tokens 16, chain {a, b, c}; worker stored a, b, d.   cached_blocks = 2: 32 tokens need no
//   computing.
//
// Bounded: a worker cannot hold more blocks than its pool has, so reports beyond that are dropped and
// counted. A life of a worker is (name, incarnation); nothing survives forget(). Thread: control.
class PrefixMap {
 public:
  // Blocks are recorded for workers that were added, until they are forgotten.
  void add(const WorkerRef& worker, int64_t blocks_total);
  void forget(const WorkerRef& worker);

  void stored(const WorkerRef& worker, std::span<const BlockHash> blocks);
  void evicted(const WorkerRef& worker, std::span<const BlockHash> blocks);

  // Length of the cached prefix in blocks; 0 for a worker that is not known.
  int32_t cached_blocks(const WorkerRef& worker, std::span<const BlockHash> chain) const;

  int64_t blocks(const WorkerRef& worker) const;
  uint64_t dropped() const { return dropped_; }

 private:
  struct Holdings {
    int64_t limit = 0;
    absl::flat_hash_set<BlockHash> blocks;  // looked up, never walked: its order is not deterministic
  };
  std::map<WorkerRef, Holdings> workers_;
  uint64_t dropped_ = 0;
};

}  // namespace baton::coordinator
