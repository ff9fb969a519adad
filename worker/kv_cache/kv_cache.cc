#include "worker/kv_cache/kv_cache.h"

#include <algorithm>
#include <ranges>

#include "base/check.h"

namespace baton::worker {

KvCache::KvCache(int64_t blocks, int32_t block_tokens)
    : block_tokens_(block_tokens),
      pool_(blocks),
      index_(blocks, block_tokens),
      stored_window_(static_cast<size_t>(blocks)) {}

int64_t KvCache::available(std::span<const BlockId> matched) const {
  int64_t blocks = pool_.free() + pool_.idle_count();
  for (BlockId block : matched) blocks -= pool_.idle(block);
  return blocks;
}

void KvCache::hold(std::span<const BlockId> matched) {
  for (BlockId block : matched) {
    if (index_.is_idle(block)) index_.remove_idle(block);
    pool_.add_owner(block);
  }
}

bool KvCache::allocate(int32_t count, std::vector<BlockId>& out) {
  if (count > available()) return false;
  while (pool_.free() < count) evict_one();
  const bool reserved = out.empty() ? pool_.reserve(count, out) : pool_.reserve(count, out.back(), out);
  BATON_CHECK(reserved);
  return true;
}

void KvCache::evict_one() {
  const BlockId block = index_.oldest_idle();
  BATON_CHECK(block != PrefixIndex::none);
  index_.remove_idle(block);
  const BlockHash hash = index_.erase(block);
  pool_.release_idle(block);
  ++evictions_;
  // Stored and evicted between two reports: nobody needs to hear of it.
  if (stored_window_[block.value()] == window_) {
    const auto it = std::ranges::find(stored_, hash);
    BATON_CHECK(it != stored_.end());
    stored_.erase(it);
    stored_window_[block.value()] = 0;
  } else {
    evicted_.push_back(hash);
  }
}

bool KvCache::publish(std::span<BlockId> table, size_t position, const BlockHash& hash,
                      std::span<const TokenId> block_tokens, TransferId lease) {
  BATON_CHECK(position < table.size());
  const BlockId own = table[position];
  const BlockId parent = position == 0 ? PrefixIndex::none : table[position - 1];
  if (pool_.state(own) == BlockState::kReserved) pool_.make_valid(own);
  const BlockId known = index_.find(hash, block_tokens, parent);
  if (known != PrefixIndex::none) {
    hold({&known, 1});
    if (pool_.has_lease(lease)) pool_.lease_also(lease, own, known);
    table[position] = known;
    drop(own);
    ++version_;
    return true;
  }
  if (!index_.insert(hash, block_tokens, own, parent)) return false;
  pool_.keep_idle(own);
  stored_.push_back(hash);
  stored_window_[own.value()] = window_;
  ++version_;
  return true;
}

void KvCache::note_idle(BlockId block) {
  if (pool_.idle(block) && !index_.is_idle(block)) index_.push_idle(block);
}

void KvCache::drop(BlockId block) {
  pool_.drop_owner(block);
  note_idle(block);
}

void KvCache::release(std::vector<BlockId>& table) {
  for (BlockId block : std::views::reverse(table)) drop(block);
  table.clear();
  ++version_;
}

void KvCache::unlease(TransferId transfer) {
  const std::vector<BlockId> blocks = pool_.unlease(transfer);
  for (BlockId block : std::views::reverse(blocks)) note_idle(block);
  ++version_;
}

void KvCache::drained(TransferId transfer) {
  pool_.drained(transfer);
  ++version_;
}

void KvCache::fence(const WorkerRef& peer) {
  pool_.fence(peer);
  ++version_;
}

void KvCache::take_changes(std::vector<BlockHash>& stored, std::vector<BlockHash>& evicted) {
  stored.insert(stored.end(), stored_.begin(), stored_.end());
  evicted.insert(evicted.end(), evicted_.begin(), evicted_.end());
  stored_.clear();
  evicted_.clear();
  ++window_;
}

int64_t KvCache::blocks_active() const {
  return pool_.count(BlockState::kReserved) + pool_.count(BlockState::kValid) - pool_.idle_count();
}

void KvCache::fill(LoadSnapshot& load) const {
  load.blocks_free = pool_.free();
  load.blocks_cached = blocks_cached();
  load.blocks_active = blocks_active();
  load.blocks_inflight = pool_.count(BlockState::kInflight);
  load.blocks_quarantined = pool_.count(BlockState::kQuarantine);
}

void KvCache::check_invariants() const {
  pool_.check_invariants();
  index_.check_invariants();
  BATON_CHECK(index_.idle_count() == pool_.idle_count());
  for (int64_t i = 0; i < pool_.size(); ++i) {
    const BlockId block(static_cast<uint32_t>(i));
    BATON_CHECK(pool_.idle(block) == index_.is_idle(block));
    if (index_.contains(block)) BATON_CHECK(pool_.state(block) == BlockState::kValid);
  }
}

}  // namespace baton::worker
