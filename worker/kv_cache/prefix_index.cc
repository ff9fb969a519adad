#include "worker/kv_cache/prefix_index.h"

#include <algorithm>

#include "base/check.h"

namespace baton::worker {

PrefixIndex::PrefixIndex(int64_t blocks, int32_t block_tokens)
    : block_tokens_(block_tokens),
      nodes_(static_cast<size_t>(blocks) + 1),
      tokens_(static_cast<size_t>(blocks) * static_cast<size_t>(block_tokens)) {
  BATON_CHECK(block_tokens > 0);
  by_hash_.reserve(static_cast<size_t>(blocks));
}

BlockId PrefixIndex::find(const BlockHash& hash, std::span<const TokenId> tokens, BlockId parent) const {
  BATON_CHECK(tokens.size() == static_cast<size_t>(block_tokens_));
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end() || nodes_[it->second.value()].parent != parent) return none;
  const TokenId* kept = tokens_.data() + size_t{it->second.value()} * block_tokens_;
  return std::equal(tokens.begin(), tokens.end(), kept) ? it->second : none;
}

void PrefixIndex::match(std::span<const BlockHash> hashes, std::span<const TokenId> tokens, int32_t limit,
                        std::vector<BlockId>& out) const {
  const size_t count = std::min(hashes.size(), static_cast<size_t>(std::max(limit, 0)));
  BATON_CHECK(tokens.size() >= count * block_tokens_);
  BlockId parent = none;
  for (size_t i = 0; i < count; ++i) {
    parent = find(hashes[i], tokens.subspan(i * block_tokens_, block_tokens_), parent);
    if (parent == none) return;
    out.push_back(parent);
  }
}

bool PrefixIndex::insert(const BlockHash& hash, std::span<const TokenId> tokens, BlockId block,
                         BlockId parent) {
  BATON_CHECK(tokens.size() == static_cast<size_t>(block_tokens_));
  BATON_CHECK(parent == none || contains(parent));
  Node& node = nodes_[block.value()];
  BATON_CHECK(!node.present);
  if (!by_hash_.try_emplace(hash, block).second) return false;
  node = Node{.hash = hash, .parent = parent, .present = true};
  if (parent != none) ++nodes_[parent.value()].children;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + size_t{block.value()} * block_tokens_);
  return true;
}

BlockHash PrefixIndex::erase(BlockId block) {
  Node& node = nodes_[block.value()];
  BATON_CHECK(node.present && !node.idle);
  BATON_CHECK(node.children == 0, "leaves go first");
  if (node.parent != none) --nodes_[node.parent.value()].children;
  const BlockHash hash = node.hash;
  BATON_CHECK(by_hash_.erase(hash) == 1);
  node = Node{};
  return hash;
}

void PrefixIndex::push_idle(BlockId block) {
  Node& node = nodes_[block.value()];
  BATON_CHECK(node.present && !node.idle);
  Node& end = nodes_.back();
  node.idle = true;
  node.next = none;
  node.previous = end.previous;
  ring(end.previous).next = block;
  end.previous = block;
  ++idle_;
}

void PrefixIndex::remove_idle(BlockId block) {
  Node& node = nodes_[block.value()];
  BATON_CHECK(node.idle);
  ring(node.previous).next = node.next;
  ring(node.next).previous = node.previous;
  node.previous = node.next = none;
  node.idle = false;
  --idle_;
}

void PrefixIndex::check_invariants() const {
  std::vector<uint32_t> children(nodes_.size());
  int64_t present = 0;
  for (size_t i = 0; i < head(); ++i) {
    const Node& node = nodes_[i];
    BATON_CHECK(node.present || !node.idle);
    if (!node.present) continue;
    ++present;
    const auto it = by_hash_.find(node.hash);
    BATON_CHECK(it != by_hash_.end() && it->second.value() == i);
    if (node.parent == none) continue;
    BATON_CHECK(nodes_[node.parent.value()].present);
    ++children[node.parent.value()];
  }
  for (size_t i = 0; i < head(); ++i) BATON_CHECK(children[i] == nodes_[i].children);
  BATON_CHECK(present == size());
  // Children before parents in the idle order: `children` counts down to zero at each block's turn.
  int64_t idle_blocks = 0;
  BlockId previous = none;
  for (BlockId id = oldest_idle(); id != none; id = nodes_[id.value()].next) {
    BATON_CHECK(nodes_[id.value()].previous == previous && nodes_[id.value()].idle);
    BATON_CHECK(children[id.value()] == 0, "a parent would be evicted before its child");
    if (nodes_[id.value()].parent != none) --children[nodes_[id.value()].parent.value()];
    previous = id;
    ++idle_blocks;
  }
  BATON_CHECK(nodes_.back().previous == previous && idle_blocks == idle_);
}

}  // namespace baton::worker
