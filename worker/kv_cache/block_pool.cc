#include "worker/kv_cache/block_pool.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace baton::worker {

BlockPool::BlockPool(int64_t blocks) {
  BATON_CHECK(blocks > 0 && blocks < int64_t{UINT32_MAX});
  blocks_.resize(static_cast<size_t>(blocks));
  free_bits_.assign(static_cast<size_t>((blocks + 63) / 64), ~uint64_t{0});
  if (blocks % 64 != 0) free_bits_.back() = (uint64_t{1} << (blocks % 64)) - 1;
  counts_[static_cast<size_t>(BlockState::kFree)] = blocks;
}

BlockPool::Block& BlockPool::at(BlockId block) {
  BATON_CHECK(block.value() < blocks_.size());
  return blocks_[block.value()];
}

const BlockPool::Block& BlockPool::at(BlockId block) const {
  BATON_CHECK(block.value() < blocks_.size());
  return blocks_[block.value()];
}

void BlockPool::enter(Block& block, BlockState state) {
  --counts_[static_cast<size_t>(block.state)];
  ++counts_[static_cast<size_t>(state)];
  block.state = state;
}

void BlockPool::set_free(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.owners == 0 && block.leases == 0 && !block.copying);
  enter(block, BlockState::kFree);
  block.keep = false;
  block.incoming = TransferId();
  free_bits_[id.value() / 64] |= uint64_t{1} << (id.value() % 64);
  lowest_free_ = std::min<int64_t>(lowest_free_, id.value());
}

// ---- reserving -----------------------------------------------------------------------------------

int64_t BlockPool::next_free(int64_t from) const {
  if (from >= size()) return size();
  size_t word = static_cast<size_t>(from) / 64;
  uint64_t bits = free_bits_[word] & (~uint64_t{0} << (from % 64));
  while (bits == 0) {
    if (++word == free_bits_.size()) return size();
    bits = free_bits_[word];
  }
  return static_cast<int64_t>(word) * 64 + std::countr_zero(bits);
}

int64_t BlockPool::next_used(int64_t from) const {
  if (from >= size()) return size();
  size_t word = static_cast<size_t>(from) / 64;
  uint64_t bits = ~free_bits_[word] & (~uint64_t{0} << (from % 64));
  while (bits == 0) {
    if (++word == free_bits_.size()) return size();
    bits = ~free_bits_[word];
  }
  return std::min(static_cast<int64_t>(word) * 64 + std::countr_zero(bits), size());
}

int64_t BlockPool::find_run(int32_t length) {
  lowest_free_ = next_free(lowest_free_);
  for (int64_t first = lowest_free_; first < size();) {
    const int64_t end = next_used(first);
    if (end - first >= length) return first;
    first = next_free(end);
  }
  return -1;
}

void BlockPool::take(BlockId id, std::vector<BlockId>& out) {
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kFree);
  enter(block, BlockState::kReserved);
  block.owners = 1;
  ++block.generation;
  used_end_ = std::max(used_end_, int64_t{id.value()} + 1);
  free_bits_[id.value() / 64] &= ~(uint64_t{1} << (id.value() % 64));
  out.push_back(id);
}

int32_t BlockPool::take_run(int64_t first, int32_t limit, std::vector<BlockId>& out) {
  int32_t taken = 0;
  while (taken < limit && first + taken < size() && is_free(first + taken)) {
    take(BlockId(static_cast<uint32_t>(first + taken)), out);
    ++taken;
  }
  return taken;
}

bool BlockPool::reserve(int32_t count, std::vector<BlockId>& out) {
  BATON_CHECK(count >= 0);
  if (count > free()) return false;
  int32_t left = count;
  // One run if there is one. Otherwise the long ones first, so that the number of pieces stays small.
  for (int32_t length = left; left > 0; length = std::max(1, std::min(length / 2, left))) {
    int64_t first = find_run(std::min(length, left));
    while (first >= 0 && left > 0) {
      left -= take_run(first, left, out);
      first = left > 0 ? find_run(std::min(length, left)) : -1;
    }
  }
  return true;
}

bool BlockPool::reserve(int32_t count, BlockId after, std::vector<BlockId>& out) {
  BATON_CHECK(count >= 0);
  if (count > free()) return false;
  const int32_t taken = take_run(int64_t{after.value()} + 1, count, out);
  return reserve(count - taken, out);
}

// ---- holders -------------------------------------------------------------------------------------

void BlockPool::make_valid(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kReserved && !block.copying);
  enter(block, BlockState::kValid);
}

void BlockPool::add_owner(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kValid);
  if (idle(id)) count_idle(block, -1);
  ++block.owners;
}

void BlockPool::drop_owner(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.owners > 0);
  --block.owners;
  settle(id);
}

void BlockPool::settle(BlockId id) {
  Block& block = at(id);
  if (block.owners > 0 || block.leases > 0) return;
  switch (block.state) {
    case BlockState::kReserved:
      return free_or_copy(id);
    case BlockState::kValid:
      if (block.keep) return count_idle(block, 1);
      return free_or_copy(id);
    case BlockState::kInflight:
    case BlockState::kQuarantine:
      return;  // the incoming transfer holds it
    case BlockState::kFree:
      BATON_CHECK(false, "a free block had a holder");
  }
}

void BlockPool::free_or_copy(BlockId id) {
  if (!at(id).copying) set_free(id);
}

void BlockPool::count_idle(const Block& block, int64_t change) {
  idle_ += change;
  if (block.copying) idle_copying_ += change;
}

bool BlockPool::idle(BlockId id) const {
  const Block& block = at(id);
  return block.state == BlockState::kValid && block.keep && block.owners == 0 && block.leases == 0;
}

void BlockPool::keep_idle(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kValid && block.owners + block.leases > 0);
  block.keep = true;
}

void BlockPool::release_idle(BlockId id) {
  BATON_CHECK(idle(id));
  Block& block = at(id);
  count_idle(block, -1);
  block.keep = false;
  free_or_copy(id);
}

// ---- copies to and from host memory --------------------------------------------------------------

void BlockPool::begin_copy(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kReserved || block.state == BlockState::kValid);
  BATON_CHECK(!block.copying, "one copy at a time");
  block.copying = true;
  ++copying_;
  if (idle(id)) ++idle_copying_;
}

void BlockPool::end_copy(BlockId id) {
  Block& block = at(id);
  BATON_CHECK(block.copying);
  if (idle(id)) --idle_copying_;
  block.copying = false;
  --copying_;
  if (block.owners == 0 && block.leases == 0 && !block.keep) set_free(id);
}

// ---- outgoing transfers --------------------------------------------------------------------------

void BlockPool::lease(TransferId transfer, std::span<const BlockId> blocks) {
  auto [it, inserted] = leases_.try_emplace(transfer, blocks.begin(), blocks.end());
  BATON_CHECK(inserted, "a transfer leases once");
  for (BlockId id : blocks) {
    Block& block = at(id);
    BATON_CHECK(block.state == BlockState::kReserved || block.state == BlockState::kValid);
    BATON_CHECK(block.owners > 0);
    ++block.leases;
  }
}

void BlockPool::lease_also(TransferId transfer, BlockId leased, BlockId id) {
  auto it = leases_.find(transfer);
  BATON_CHECK(it != leases_.end());
  auto position = std::find(it->second.begin(), it->second.end(), leased);
  BATON_CHECK(position != it->second.end());
  Block& block = at(id);
  BATON_CHECK(block.state == BlockState::kValid && block.owners > 0);
  ++block.leases;
  it->second.insert(position, id);
}

std::vector<BlockId> BlockPool::unlease(TransferId transfer) {
  auto it = leases_.find(transfer);
  BATON_CHECK(it != leases_.end());
  std::vector<BlockId> blocks = std::move(it->second);
  leases_.erase(it);
  for (BlockId id : blocks) {
    Block& block = at(id);
    BATON_CHECK(block.leases > 0);
    --block.leases;
    settle(id);
  }
  return blocks;
}

// ---- incoming transfers --------------------------------------------------------------------------

void BlockPool::begin_landing(TransferId transfer, std::span<const BlockId> blocks) {
  Landing landing{.blocks = {blocks.begin(), blocks.end()}};
  for (BlockId id : blocks) {
    Block& block = at(id);
    BATON_CHECK(block.state == BlockState::kReserved && block.owners == 1 && block.leases == 0);
    BATON_CHECK(!block.copying);
    enter(block, BlockState::kInflight);
    block.incoming = transfer;
  }
  BATON_CHECK(landings_.try_emplace(transfer, std::move(landing)).second, "a transfer lands once");
}

void BlockPool::landed(TransferId transfer) {
  auto it = landings_.find(transfer);
  BATON_CHECK(it != landings_.end() && !it->second.aborted);
  for (BlockId id : it->second.blocks) {
    Block& block = at(id);
    BATON_CHECK(block.state == BlockState::kInflight && block.incoming == transfer && block.owners > 0);
    enter(block, BlockState::kValid);
    block.incoming = TransferId();
  }
  landings_.erase(it);
}

void BlockPool::abort(TransferId transfer) {
  auto it = landings_.find(transfer);
  BATON_CHECK(it != landings_.end() && !it->second.aborted);
  it->second.aborted = true;
  for (BlockId id : it->second.blocks) {
    Block& block = at(id);
    BATON_CHECK(block.state == BlockState::kInflight && block.incoming == transfer);
    enter(block, BlockState::kQuarantine);
  }
}

void BlockPool::drained(TransferId transfer) {
  auto it = landings_.find(transfer);
  BATON_CHECK(it != landings_.end() && it->second.aborted);
  for (BlockId id : it->second.blocks) {
    Block& block = at(id);
    BATON_CHECK(block.state == BlockState::kQuarantine && block.incoming == transfer);
    set_free(id);
  }
  landings_.erase(it);
}

// ---- checks --------------------------------------------------------------------------------------

void BlockPool::check_invariants() const {
  std::array<int64_t, kBlockStates> counts{};
  std::vector<uint32_t> leases(blocks_.size());
  std::vector<uint32_t> incoming(blocks_.size());
  for (const auto& [transfer, blocks] : leases_)
    for (BlockId id : blocks) ++leases[id.value()];
  for (const auto& [transfer, landing] : landings_) {
    for (BlockId id : landing.blocks) {
      ++incoming[id.value()];
      BATON_CHECK(at(id).incoming == transfer);
      BATON_CHECK(at(id).state == (landing.aborted ? BlockState::kQuarantine : BlockState::kInflight));
    }
  }
  int64_t idle_blocks = 0, idle_copying = 0, copying = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    ++counts[static_cast<size_t>(block.state)];
    idle_blocks += idle(BlockId(static_cast<uint32_t>(i)));
    idle_copying += block.copying && idle(BlockId(static_cast<uint32_t>(i)));
    copying += block.copying;
    BATON_CHECK(block.leases == leases[i]);
    const bool lands = block.state == BlockState::kInflight || block.state == BlockState::kQuarantine;
    BATON_CHECK(incoming[i] == (lands ? 1u : 0u));
    BATON_CHECK(is_free(static_cast<int64_t>(i)) == (block.state == BlockState::kFree));
    if (block.state == BlockState::kFree) BATON_CHECK(block.owners + block.leases == 0 && !block.copying);
    if (block.state == BlockState::kReserved) BATON_CHECK(block.owners + block.leases > 0 || block.copying);
    if (lands) BATON_CHECK(!block.copying);
  }
  BATON_CHECK(counts == counts_);
  BATON_CHECK(idle_blocks == idle_ && idle_copying == idle_copying_ && copying == copying_);
}

}  // namespace baton::worker
