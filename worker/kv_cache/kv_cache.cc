#include "worker/kv_cache/kv_cache.h"

#include <algorithm>
#include <optional>
#include <ranges>

#include "base/check.h"

namespace baton::worker {

KvCache::KvCache(int64_t blocks, int32_t block_tokens, const HostTierOptions& host)
    : block_tokens_(block_tokens),
      pool_(blocks),
      index_(blocks, block_tokens),
      host_(host, blocks, block_tokens),
      stored_window_(static_cast<size_t>(blocks)) {}

int64_t KvCache::available(std::span<const BlockId> matched) const {
  int64_t blocks = pool_.free() + pool_.idle_count() - pool_.idle_copying();
  for (BlockId block : matched) blocks -= pool_.idle(block) && !pool_.copying(block);
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
  pool_.release_idle(block);  // which frees it, unless it is being copied
  ++evictions_;
  const bool stored_now = stored_window_[block.value()] == window_;
  stored_window_[block.value()] = 0;
  if (on_host(hash)) return;
  if (host_.open()) host_.count_lost();
  note_gone(hash, stored_now || host_.index().slots() > 0);
}

// Neither in the pool nor in host memory. `stored_now`: it may be in stored_.
void KvCache::note_gone(const BlockHash& hash, bool stored_now) {
  // Stored and evicted between two reports: nobody needs to hear of it.
  const auto it = stored_now ? std::ranges::find(stored_, hash) : stored_.end();
  if (it != stored_.end()) {
    stored_.erase(it);
  } else {
    evicted_.push_back(hash);
  }
}

bool KvCache::publish(const TableBlock& block, const BlockHash& hash, std::span<const TokenId> block_tokens) {
  BATON_CHECK(block.position < block.table.size());
  const BlockId own = block.table[block.position];
  const BlockId parent = block.position == 0 ? PrefixIndex::none : block.table[block.position - 1];
  if (pool_.state(own) == BlockState::kReserved) pool_.make_valid(own);
  const BlockId known = index_.find(hash, block_tokens, parent);
  if (known != PrefixIndex::none) {
    hold({&known, 1});
    if (pool_.has_lease(block.lease)) pool_.lease_also(block.lease, own, known);
    block.table[block.position] = known;
    if (block.replaced != nullptr) {
      block.replaced->push_back(own);
    } else {
      drop(own);
    }
    ++version_;
    return true;
  }
  if (!index_.insert(hash, block_tokens, own, parent)) return false;
  pool_.keep_idle(own);
  ++version_;
  if (on_host(hash)) return true;
  host_.want(own);
  stored_.push_back(hash);
  stored_window_[own.value()] = window_;
  return true;
}

void KvCache::note_idle(BlockId block) {
  if (!pool_.idle(block) || index_.is_idle(block)) return;
  index_.push_idle(block);
  // Its copy may have been given away while it was in use.
  if (host_.open() && !on_host(index_.hash(block))) host_.want(block);
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

// ---- host tier -----------------------------------------------------------------------------------

void KvCache::match_host(std::span<const BlockHash> hashes, std::span<const TokenId> tokens, int32_t from,
                         int32_t limit, std::vector<HostSlot>& out) const {
  if (!host_.usable()) return;
  const size_t end = std::min(hashes.size(), static_cast<size_t>(std::max(limit, 0)));
  for (auto i = static_cast<size_t>(from); i < end; ++i) {
    const HostIndex::Key key{.hash = hashes[i], .parent = i == 0 ? BlockHash{} : hashes[i - 1]};
    const HostSlot slot = host_.index().find(key, tokens.subspan(i * block_tokens_, block_tokens_));
    if (slot == HostIndex::none) return;
    out.push_back(slot);
  }
}

HostCopyId KvCache::fetch(std::span<const BlockId> blocks, std::span<const HostSlot> slots) {
  BATON_CHECK(blocks.size() == slots.size());
  std::vector<HostCopy::Block> copies;
  copies.reserve(blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    BATON_CHECK(pool_.state(blocks[i]) == BlockState::kReserved);
    pool_.begin_copy(blocks[i]);
    copies.push_back({.block = blocks[i], .slot = slots[i]});
  }
  return host_.order(false, std::move(copies));
}

void KvCache::copy_out() {
  std::vector<HostCopy::Block> copies;
  for (BlockId block; host_.next_out(static_cast<int64_t>(copies.size()), block);) {
    // Evicted meanwhile, or there is a copy by now.
    if (!index_.contains(block) || pool_.copying(block) || on_host(index_.hash(block))) continue;
    const BlockId parent = index_.parent(block);
    const HostIndex::Key key{.hash = index_.hash(block),
                             .parent = parent == PrefixIndex::none ? BlockHash{} : index_.hash(parent)};
    std::optional<BlockHash> gone;
    const HostSlot slot = host_.index().take(key, index_.tokens(block), gone);
    if (gone && !index_.contains(*gone)) note_gone(*gone, true);
    pool_.begin_copy(block);
    copies.push_back({.block = block, .slot = slot});
  }
  if (!copies.empty()) host_.order(true, std::move(copies));
}

bool KvCache::copied(const HostCopied& event) {
  const HostCopy copy = host_.end(event);
  for (const HostCopy::Block& c : copy.blocks) pool_.end_copy(c.block);
  ++version_;
  if (host_.open()) return true;
  std::vector<BlockHash> gone;
  host_.index().clear(gone);
  for (const BlockHash& hash : gone)
    if (!index_.contains(hash)) note_gone(hash, true);
  return false;
}

int64_t KvCache::findable() const {
  int64_t both = 0;
  for (int64_t i = 0; i < pool_.size(); ++i) {
    const BlockId block(static_cast<uint32_t>(i));
    both += index_.contains(block) && on_host(index_.hash(block));
  }
  return index_.size() + host_.index().size() - both;
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
  host_.check_invariants();
  BATON_CHECK(index_.idle_count() == pool_.idle_count());
  for (int64_t i = 0; i < pool_.size(); ++i) {
    const BlockId block(static_cast<uint32_t>(i));
    BATON_CHECK(pool_.idle(block) == index_.is_idle(block));
    if (index_.contains(block)) BATON_CHECK(pool_.state(block) == BlockState::kValid);
  }
}

}  // namespace baton::worker
