#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/ids.h"
#include "transport/messages/messages.h"

namespace baton::worker {

enum class BlockState : uint8_t {
  kFree,        // nobody can touch it
  kReserved,    // owned by a request that computes into it
  kInflight,    // a transfer writes into it
  kValid,       // complete content
  kQuarantine,  // its transfer was aborted, but its writer may not have stopped yet
};
inline constexpr int kBlockStates = 5;

// The life of every KV block of one worker (design I2): a block is free only when nobody can touch it.
//
//   FREE --reserve--> RESERVED --make_valid--> VALID --last holder left--> FREE (or kept: see keep_idle)
//                        |  begin_landing(transfer)
//                        v
//                     INFLIGHT --landed--> VALID
//                        |  abort
//                        v
//                    QUARANTINE --drained(transfer)--> FREE                       never by a timer
//
// Two kinds of holder are counted apart: owners (requests) and leases (outgoing transfers that read the
// block). The incoming transfer of an INFLIGHT or QUARANTINE block is its third holder: an owner may leave at
// any time, the block stays. Each reservation of a block gives it a new generation, which grants and offers
// carry.
//
// Copies to and from host memory are a holder of their own kind (begin_copy): they work on VALID blocks, out
// of them, or on RESERVED ones, into them. Owners may leave and the index may let the block go meanwhile; it
// keeps its state, and is FREE no sooner than the copy ends.
//
// Example: 2 landing blocks, the request is released while bytes move: drop_owner x2 (still INFLIGHT),
// abort(t) (QUARANTINE), drained(t) (FREE).
//
// Thread: engine. Owns no memory of the KV itself. Errors: a wrong transition is a bug here and aborts
// (BATON_CHECK).
class BlockPool {
 public:
  explicit BlockPool(int64_t blocks);

  // FREE -> RESERVED with one owner: appends `count` blocks to `out`, or nothing when fewer are free. Prefers
  // the blocks right after `after`, then one adjacent run, then few long runs, so that transfers have few
  // pieces.
  bool reserve(int32_t count, BlockId after, std::vector<BlockId>& out);
  bool reserve(int32_t count, std::vector<BlockId>& out);

  void make_valid(BlockId block);  // RESERVED -> VALID
  void add_owner(BlockId block);   // VALID only
  // The last owner's leaving frees the block unless a lease or an incoming transfer holds it, or it is kept
  // idle.
  void drop_owner(BlockId block);

  // A kept block stays VALID without holders ("cached"): the prefix index holds it and lets it go with
  // release_idle.
  void keep_idle(BlockId block);
  void release_idle(BlockId block);  // VALID, kept, no holder -> FREE

  // RESERVED or VALID, and no copy works on it already.
  void begin_copy(BlockId block);
  void end_copy(BlockId block);
  bool copying(BlockId block) const { return at(block).copying; }

  // Outgoing transfers: the blocks can be read by the transfer until unlease(). RESERVED or VALID blocks, in
  // prompt order.
  void lease(TransferId transfer, std::span<const BlockId> blocks);
  void lease_also(TransferId transfer, BlockId leased,
                  BlockId block);                     // `block` holds the same tokens as `leased`
  std::vector<BlockId> unlease(TransferId transfer);  // what was leased, in prompt order

  // Incoming transfers.
  void begin_landing(TransferId transfer, std::span<const BlockId> blocks);
  void landed(TransferId transfer);   // INFLIGHT -> VALID
  void abort(TransferId transfer);    // INFLIGHT -> QUARANTINE
  void drained(TransferId transfer);  // QUARANTINE -> FREE; the request must have left

  bool has_landing(TransferId transfer) const { return landings_.contains(transfer); }
  bool has_lease(TransferId transfer) const { return leases_.contains(transfer); }
  size_t open_transfers() const { return landings_.size() + leases_.size(); }

  BlockState state(BlockId block) const { return at(block).state; }
  uint32_t generation(BlockId block) const { return at(block).generation; }
  uint32_t owners(BlockId block) const { return at(block).owners; }
  uint32_t leases(BlockId block) const { return at(block).leases; }
  bool idle(BlockId block) const;  // VALID, kept, without holder

  int64_t size() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t count(BlockState state) const { return counts_[static_cast<size_t>(state)]; }
  int64_t free() const { return count(BlockState::kFree); }
  int64_t idle_count() const { return idle_; }            // part of count(kValid)
  int64_t idle_copying() const { return idle_copying_; }  // part of that: release_idle() does not free these
  int64_t copying_count() const { return copying_; }
  int64_t used_end() const { return used_end_; }  // one past the highest block that was ever reserved

  // Recounts everything; aborts on a difference. O(blocks). For tests and the simulator.
  void check_invariants() const;

 private:
  struct Block {
    BlockState state = BlockState::kFree;
    bool keep = false;
    bool copying = false;
    uint32_t owners = 0;
    uint32_t leases = 0;
    uint32_t generation = 0;
    TransferId incoming;  // of INFLIGHT and QUARANTINE
  };
  struct Landing {
    bool aborted = false;
    std::vector<BlockId> blocks;
  };

  Block& at(BlockId block);
  const Block& at(BlockId block) const;
  void enter(Block& block, BlockState state);
  void count_idle(const Block& block, int64_t change);
  void set_free(BlockId id);
  void settle(BlockId id);        // after a holder left
  void free_or_copy(BlockId id);  // nobody holds it, but for a copy perhaps
  void take(BlockId id, std::vector<BlockId>& out);
  int32_t take_run(int64_t first, int32_t limit, std::vector<BlockId>& out);
  bool is_free(int64_t index) const { return free_bits_[index / 64] >> (index % 64) & 1; }
  int64_t next_free(int64_t from) const;  // size() when none
  int64_t next_used(int64_t from) const;
  int64_t find_run(int32_t length);  // first run of at least `length`, -1 when none

  std::vector<Block> blocks_;
  std::vector<uint64_t> free_bits_;
  std::array<int64_t, kBlockStates> counts_{};
  int64_t idle_ = 0;
  int64_t idle_copying_ = 0;
  int64_t copying_ = 0;
  int64_t lowest_free_ = 0;  // no free block is before it
  int64_t used_end_ = 0;
  std::map<TransferId, Landing> landings_;
  std::map<TransferId, std::vector<BlockId>> leases_;
};

}  // namespace baton::worker
