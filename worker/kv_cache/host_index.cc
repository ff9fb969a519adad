#include "worker/kv_cache/host_index.h"

#include <algorithm>
#include <ranges>

#include "base/check.h"

namespace baton::worker {

HostIndex::HostIndex(int64_t slots, int32_t block_tokens)
    : block_tokens_(block_tokens),
      nodes_(static_cast<size_t>(slots) + 1),
      tokens_(static_cast<size_t>(slots) * static_cast<size_t>(block_tokens)) {
  BATON_CHECK(slots >= 0 && slots < int64_t{UINT32_MAX} && block_tokens > 0);
  by_hash_.reserve(static_cast<size_t>(slots));
}

HostSlot HostIndex::find(const Key& key, std::span<const TokenId> tokens) const {
  const auto it = by_hash_.find(key.hash);
  if (it == by_hash_.end() || nodes_[it->second.value()].key.parent != key.parent) return none;
  const TokenId* kept = tokens_.data() + size_t{it->second.value()} * block_tokens_;
  return std::equal(tokens.begin(), tokens.end(), kept, kept + block_tokens_) ? it->second : none;
}

HostSlot HostIndex::take(const Key& key, std::span<const TokenId> tokens, std::optional<BlockHash>& evicted) {
  BATON_CHECK(slots() > 0 && tokens.size() == static_cast<size_t>(block_tokens_));
  evicted.reset();
  HostSlot slot(unused_);
  if (unused_ < slots()) {
    ++unused_;
  } else {
    slot = nodes_.back().next;
    evicted = nodes_[slot.value()].key.hash;
    BATON_CHECK(by_hash_.erase(*evicted) == 1);
    unlink(slot);
  }
  BATON_CHECK(by_hash_.try_emplace(key.hash, slot).second);
  Node& node = nodes_[slot.value()];
  node.key = key;
  node.present = true;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + size_t{slot.value()} * block_tokens_);
  const auto parent = by_hash_.find(key.parent);
  link_before(slot, parent == by_hash_.end() ? none : parent->second);
  return slot;
}

void HostIndex::touch(std::span<const BlockHash> chain) {
  for (const BlockHash& hash : std::views::reverse(chain)) {
    const auto it = by_hash_.find(hash);
    if (it == by_hash_.end()) continue;
    unlink(it->second);
    link_before(it->second, none);
  }
}

void HostIndex::clear(std::vector<BlockHash>& gone) {
  for (Node& node : nodes_) {
    if (node.present) gone.push_back(node.key.hash);
    node = Node{};
  }
  by_hash_.clear();
  unused_ = 0;
}

void HostIndex::link_before(HostSlot slot, HostSlot place) {
  Node& node = nodes_[slot.value()];
  Node& after = ring(place);
  node.next = place;
  node.previous = after.previous;
  ring(after.previous).next = slot;
  after.previous = slot;
}

void HostIndex::unlink(HostSlot slot) {
  Node& node = nodes_[slot.value()];
  ring(node.previous).next = node.next;
  ring(node.next).previous = node.previous;
}

void HostIndex::check_invariants() const {
  int64_t present = 0;
  for (size_t i = 0; i + 1 < nodes_.size(); ++i) {
    if (!nodes_[i].present) continue;
    ++present;
    const auto it = by_hash_.find(nodes_[i].key.hash);
    BATON_CHECK(it != by_hash_.end() && it->second.value() == i);
  }
  BATON_CHECK(present == size());
  HostSlot previous = none;
  for (HostSlot slot = nodes_.back().next; slot != none; slot = nodes_[slot.value()].next) {
    BATON_CHECK(nodes_[slot.value()].present && nodes_[slot.value()].previous == previous);
    previous = slot;
    --present;
  }
  BATON_CHECK(present == 0 && nodes_.back().previous == previous);
}

}  // namespace baton::worker
