#include "worker/kv_cache/host_tier.h"

#include <algorithm>

#include "base/check.h"

namespace baton::worker {

HostTier::HostTier(const HostTierOptions& options, int64_t pool_blocks, int32_t block_tokens)
    : copies_(options.slots > 0 ? options.copies : nullptr),
      most_out_(std::clamp<int64_t>(pool_blocks / 8, 1, kMostOut)),
      index_(options.slots, block_tokens),
      is_wanted_(static_cast<size_t>(options.slots > 0 ? pool_blocks : 0)) {
  BATON_CHECK(options.slots == 0 || options.copies != nullptr);
}

void HostTier::want(BlockId block) {
  if (!open() || is_wanted_[block.value()]) return;
  is_wanted_[block.value()] = true;
  wanted_.push_back(block);
}

bool HostTier::next_out(int64_t ordered, BlockId& block) {
  if (!open() || wanted_.empty() || out_ + ordered >= most_out_) return false;
  block = wanted_.front();
  wanted_.pop_front();
  is_wanted_[block.value()] = false;
  return true;
}

HostCopyId HostTier::order(bool out, std::vector<HostCopy::Block> blocks) {
  BATON_CHECK(open() && !blocks.empty());
  const HostCopyId id(next_id_++);
  if (out) out_ += static_cast<int64_t>(blocks.size());
  orders_.push_back({.copy = {.id = id, .out = out, .blocks = std::move(blocks)}});
  copies_->copy(orders_.back().copy);
  return id;
}

void HostTier::give_up(HostCopyId id) {
  const auto order = std::ranges::find(orders_, id, [](const Order& o) { return o.copy.id; });
  BATON_CHECK(order != orders_.end() && !order->late);
  order->late = true;
  ++late_;
}

HostCopy HostTier::end(const HostCopied& event) {
  BATON_CHECK(!orders_.empty() && orders_.front().copy.id == event.id, "copies end in order");
  Order order = std::move(orders_.front());
  orders_.pop_front();
  const size_t blocks = order.copy.blocks.size();
  late_ -= order.late;
  if (order.copy.out) out_ -= static_cast<int64_t>(blocks);
  if (event.error.empty()) {
    (order.copy.out ? counters_.blocks_out : counters_.blocks_in) += blocks;
  } else {
    copies_ = nullptr;
    wanted_.clear();
  }
  return std::move(order.copy);
}

void HostTier::check_invariants() const {
  index_.check_invariants();
  int64_t out = 0;
  int late = 0;
  for (const Order& order : orders_) {
    if (order.copy.out) out += static_cast<int64_t>(order.copy.blocks.size());
    late += order.late;
  }
  BATON_CHECK(out == out_ && late == late_);
  for (BlockId block : wanted_) BATON_CHECK(is_wanted_[block.value()]);
}

}  // namespace baton::worker
