#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/block_hash.h"
#include "base/ids.h"

namespace baton::worker {

// Finds full blocks by the chained hash of their tokens and all that precedes them (base/block_hash.h), and
// keeps the blocks that no request holds in the order in which they may be evicted.
//
// A hit is checked: the token ids of the block must be equal and its parent must be the block matched before
// it, so a collision costs a miss, never a wrong token.
//
// Eviction is leaf first and least recently used, O(1): a request that holds a block holds all its ancestors
// too, and leaves them children first (KvCache::release), so the oldest idle block never has a child. The
// child counter checks it. Example: chain a-b-c released as c, b, a; later a-b-d released as d, b, a: order c
// d b a.
//
// Thread: engine. Knows nothing of block states: KvCache tells it which blocks are idle.
class PrefixIndex {
 public:
  PrefixIndex(int64_t blocks, int32_t block_tokens);

  // Appends to `out` the blocks of the longest known prefix of `hashes`, at most `limit`.
  // tokens.size() >= hashes.size() * block_tokens.
  void match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens, int32_t limit,
             std::vector<BlockId>& out) const;
  // The block with that hash, tokens and parent; `none` when there is none.
  static constexpr BlockId none = BlockId(UINT32_MAX);
  BlockId find(const BlockHash& hash, std::span<const TokenId> tokens, BlockId parent) const;

  // Makes `block` findable. The parent (or none) is in the index. False when another block has the hash
  // already.
  bool insert(const BlockHash& hash, std::span<const TokenId> tokens, BlockId block, BlockId parent);
  // Childless blocks only. The block is not in the idle order any more.
  BlockHash erase(BlockId block);
  bool contains(BlockId block) const { return nodes_[block.value()].present; }
  bool contains(const BlockHash& hash) const { return by_hash_.contains(hash); }
  const BlockHash& hash(BlockId block) const { return nodes_[block.value()].hash; }
  BlockId parent(BlockId block) const { return nodes_[block.value()].parent; }
  std::span<const TokenId> tokens(BlockId block) const {
    return std::span(tokens_).subspan(size_t{block.value()} * block_tokens_, block_tokens_);
  }
  uint32_t children(BlockId block) const { return nodes_[block.value()].children; }

  void push_idle(BlockId block);    // now the last to be evicted
  void remove_idle(BlockId block);  // somebody holds it again
  bool is_idle(BlockId block) const { return nodes_[block.value()].idle; }
  BlockId oldest_idle() const { return nodes_[head()].next; }  // none when empty
  int64_t size() const { return static_cast<int64_t>(by_hash_.size()); }
  int64_t idle_count() const { return idle_; }

  // Recounts children, order and map; aborts on a difference. O(blocks).
  void check_invariants() const;

 private:
  // The idle order is a ring of block numbers through nodes_[blocks], which stands for its ends.
  struct Node {
    BlockHash hash;
    BlockId parent = none;
    uint32_t children = 0;
    BlockId previous = none;
    BlockId next = none;
    bool present = false;
    bool idle = false;
  };
  size_t head() const { return nodes_.size() - 1; }
  Node& ring(BlockId id) { return id == none ? nodes_.back() : nodes_[id.value()]; }

  const int32_t block_tokens_;
  std::vector<Node> nodes_;      // by block, and the ring's head
  std::vector<TokenId> tokens_;  // [block][block_tokens]
  absl::flat_hash_map<BlockHash, BlockId> by_hash_;
  int64_t idle_ = 0;
};

}  // namespace baton::worker
