#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/block_hash.h"
#include "worker/kv_cache/host_copies.h"

namespace baton::worker {

// Which blocks have a copy in host memory, found by the same chained hash as in PrefixIndex. A hit is
// checked: the block's tokens and its parent's hash must be equal. Slots have no holders: when all are taken,
// the least recently used one is given away.
//
// In the order of use a block stands before its ancestors (take() puts it right before its parent, touch()
// takes a chain from its root), so ancestors outlive it. Example: a-b-c copied out as a, b, c: order c b a;
// then touch(a, b): c b a again, but behind everything else.
//
// Thread: engine. Knows nothing of pool blocks.
class HostIndex {
 public:
  HostIndex(int64_t slots, int32_t block_tokens);

  struct Key {
    BlockHash hash;
    BlockHash parent;  // {} for the first block of a chain
  };
  static constexpr HostSlot none = HostSlot(UINT32_MAX);
  bool contains(const BlockHash& hash) const { return by_hash_.contains(hash); }
  HostSlot find(const Key& key, std::span<const TokenId> tokens) const;

  // A slot for a block that is not here; `evicted`: whose place it takes.
  HostSlot take(const Key& key, std::span<const TokenId> tokens, std::optional<BlockHash>& evicted);
  // The first blocks of a chain were used; those that are not here are passed over.
  void touch(std::span<const BlockHash> chain);
  // Forgets everything; `gone` gets the hashes, by slot.
  void clear(std::vector<BlockHash>& gone);

  int64_t slots() const { return static_cast<int64_t>(nodes_.size()) - 1; }
  int64_t size() const { return static_cast<int64_t>(by_hash_.size()); }

  // Recounts; aborts on a difference. O(slots).
  void check_invariants() const;

 private:
  // The order of use is a ring through nodes_[slots], which stands for its ends.
  struct Node {
    Key key;
    HostSlot previous = none;
    HostSlot next = none;
    bool present = false;
  };
  Node& ring(HostSlot slot) { return slot == none ? nodes_.back() : nodes_[slot.value()]; }
  void link_before(HostSlot slot, HostSlot place);  // none: as the last to be given away
  void unlink(HostSlot slot);

  const int32_t block_tokens_;
  std::vector<Node> nodes_;
  std::vector<TokenId> tokens_;  // [slot][block_tokens]
  absl::flat_hash_map<BlockHash, HostSlot> by_hash_;
  uint32_t unused_ = 0;  // slots from here on were never taken
};

}  // namespace baton::worker
