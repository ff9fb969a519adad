#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/kv_cache/block_pool.h"
#include "worker/kv_cache/host_tier.h"
#include "worker/kv_cache/prefix_index.h"

namespace baton::worker {

// The blocks of one worker as the scheduler sees them: a pool of states plus the prefix index, kept in step.
// Blocks that were published and that nobody holds stay findable until their room is needed, and longer with
// a host tier: every published block is copied to host memory soon, where match_host() finds it when the pool
// has given it up (docs/adr/0017). Nobody waits for a copy out: who needs room evicts what has no copy, too.
//
// Thread: engine. Owns all parts. Errors: none; what does not fit is answered with false.
class KvCache {
 public:
  KvCache(int64_t blocks, int32_t block_tokens, const HostTierOptions& host = {});

  // The blocks of the longest cached prefix, at most `limit`; takes no hold of them.
  void match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens, int32_t limit,
             std::vector<BlockId>& out) const {
    index_.match(hashes, tokens, limit, out);
  }
  // Blocks that allocate() can give when `matched` (a result of match) is held.
  int64_t available(std::span<const BlockId> matched = {}) const;
  void hold(std::span<const BlockId> matched);  // one owner more each
  // Reserves `count` blocks, evicting idle ones when too few are free; appends to `out`, or false and
  // nothing.
  bool allocate(int32_t count, std::vector<BlockId>& out);

  // One block of a table. `lease`: the outgoing transfer of the table, if any.
  struct TableBlock {
    std::span<BlockId> table;
    size_t position = 0;
    TransferId lease;
    // Gets a block that the table gives back, and holds it on: somebody still reads it. Null: nobody does.
    std::vector<BlockId>* replaced = nullptr;
  };
  // The block is complete: makes it VALID and findable under `hash`. When an equal block is findable already,
  // the table takes that one and gives its own back: equal tokens have equal bits here (design I1). The
  // blocks before it must have been published by this table. False when two prefixes share the hash: the
  // block stays the table's own, and nothing after it can be published.
  bool publish(const TableBlock& block, const BlockHash& hash, std::span<const TokenId> block_tokens);
  // The request lets go of all of its table, last block first. Clears it.
  void release(std::vector<BlockId>& table);

  // ---- host tier
  // The copies of the blocks that follow the first `from` (a result of match), up to block `limit`.
  void match_host(std::span<const BlockHash> hashes, std::span<const TokenId> tokens, int32_t from,
                  int32_t limit, std::vector<HostSlot>& out) const;
  // Copies them into `blocks`, which the caller has just allocated. Whoever lets go of them meanwhile, they
  // are free no sooner than the copy has ended.
  HostCopyId fetch(std::span<const BlockId> blocks, std::span<const HostSlot> slots);
  void give_up_fetch(HostCopyId id) { host_.give_up(id); }
  // These blocks were used now, wherever they lie.
  void touch_host(std::span<const BlockHash> chain) { host_.index().touch(chain); }
  // Begins copies of published blocks. To be called now and then; does nothing when enough are under way.
  void copy_out();
  // A copy, out or in, has ended. False: its bytes cannot be used.
  bool copied(const HostCopied& event);
  const HostTier& host() const { return host_; }
  // Hashes that are found in the pool or in host memory. O(slots).
  int64_t findable() const;

  // Transfers: see BlockPool.
  void lease(TransferId transfer, std::span<const BlockId> blocks) { pool_.lease(transfer, blocks); }
  void unlease(TransferId transfer);
  void begin_landing(TransferId transfer, std::span<const BlockId> blocks) {
    pool_.begin_landing(transfer, blocks);
  }
  void landed(TransferId transfer) { pool_.landed(transfer); }
  void abort(TransferId transfer) { pool_.abort(transfer); }
  void drained(TransferId transfer);

  // Hashes that became findable, and that ceased to be, since the last call. Apply evicted first, then
  // stored.
  void take_changes(std::vector<BlockHash>& stored, std::vector<BlockHash>& evicted);
  bool has_changes() const { return !stored_.empty() || !evicted_.empty(); }
  // Grows whenever blocks may have become available or findable: what did not fit need not be tried again
  // before.
  uint64_t version() const { return version_; }
  int64_t evictions() const { return evictions_; }

  const BlockPool& pool() const { return pool_; }
  const PrefixIndex& index() const { return index_; }
  int32_t block_tokens() const { return block_tokens_; }
  int64_t blocks_cached() const { return pool_.idle_count(); }
  int64_t blocks_active() const;  // RESERVED or VALID, and held
  void fill(LoadSnapshot& load) const;
  void check_invariants() const;

 private:
  void evict_one();
  void note_gone(const BlockHash& hash, bool stored_now);
  bool on_host(const BlockHash& hash) const { return host_.index().contains(hash); }
  void drop(BlockId block);
  void note_idle(BlockId block);

  const int32_t block_tokens_;
  BlockPool pool_;
  PrefixIndex index_;
  HostTier host_;
  std::vector<BlockHash> stored_;
  std::vector<BlockHash> evicted_;
  std::vector<uint64_t> stored_window_;  // by block: the take_changes() window in which it was stored
  uint64_t window_ = 1;
  uint64_t version_ = 0;
  int64_t evictions_ = 0;
};

}  // namespace baton::worker
