#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "worker/kv_cache/host_copies.h"
#include "worker/kv_cache/host_index.h"

namespace baton::worker {

struct HostTierOptions {
  int64_t slots = 0;             // blocks that host memory holds; 0 = there is no tier
  HostCopies* copies = nullptr;  // borrowed; with slots only
};

struct HostTierCounters {
  uint64_t blocks_out = 0;  // copied to host memory
  uint64_t blocks_in = 0;   // and back into the pool
  uint64_t lost = 0;        // evicted from the pool before there was a copy
  friend bool operator==(const HostTierCounters&, const HostTierCounters&) = default;
};

// What KvCache knows of host memory: which blocks lie there, which pool blocks are still to be copied out,
// and the copies under way. Blocks go out in the order in which they became complete, at most kMostOut at
// once, so that few of them are kept from being evicted and a copy in never waits for many. One failed copy
// closes the tier for good: what it held is recomputed. While a copy in is later than its sequence waited, no
// other is begun.
//
// Thread: engine. Owns the index; borrows the copies. Deterministic.
class HostTier {
 public:
  static constexpr int64_t kMostOut = 32;

  HostTier(const HostTierOptions& options, int64_t pool_blocks, int32_t block_tokens);

  bool open() const { return copies_ != nullptr; }
  bool usable() const { return open() && late_ == 0; }  // for copies in
  HostIndex& index() { return index_; }
  const HostIndex& index() const { return index_; }

  // The block is complete and has no copy; may be said again.
  void want(BlockId block);
  // The next such block while more may go out; false when none.
  bool next_out(int64_t ordered, BlockId& block);
  HostCopyId order(bool out, std::vector<HostCopy::Block> blocks);
  // The sequence that waited for this copy in does so no more.
  void give_up(HostCopyId id);
  // The oldest order ended: returns it. After an error the tier is closed.
  HostCopy end(const HostCopied& event);

  bool idle() const { return orders_.empty(); }
  void count_lost() { ++counters_.lost; }
  const HostTierCounters& counters() const { return counters_; }
  void check_invariants() const;

 private:
  struct Order {
    HostCopy copy;
    bool late = false;
  };
  HostCopies* copies_;
  const int64_t most_out_;
  HostIndex index_;
  std::deque<BlockId> wanted_;   // a block at most once
  std::vector<bool> is_wanted_;  // by block
  std::deque<Order> orders_;     // under way, oldest first
  int64_t out_ = 0;              // blocks in orders out
  int late_ = 0;
  uint64_t next_id_ = 1;
  HostTierCounters counters_;
};

}  // namespace baton::worker
