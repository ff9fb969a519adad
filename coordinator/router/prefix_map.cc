#include "coordinator/router/prefix_map.h"

#include <algorithm>

namespace baton::coordinator {

void PrefixMap::add(const WorkerRef& worker, int64_t blocks_total) {
  workers_[worker].limit = std::max<int64_t>(blocks_total, 0);
}

void PrefixMap::forget(const WorkerRef& worker) { workers_.erase(worker); }

void PrefixMap::stored(const WorkerRef& worker, std::span<const BlockHash> blocks) {
  const auto it = workers_.find(worker);
  if (it == workers_.end()) {
    dropped_ += blocks.size();
    return;
  }
  Holdings& held = it->second;
  for (const BlockHash& block : blocks) {
    if (static_cast<int64_t>(held.blocks.size()) < held.limit) {
      held.blocks.insert(block);
    } else if (!held.blocks.contains(block)) {
      ++dropped_;
    }
  }
}

void PrefixMap::evicted(const WorkerRef& worker, std::span<const BlockHash> blocks) {
  const auto it = workers_.find(worker);
  if (it == workers_.end()) return;
  for (const BlockHash& block : blocks) it->second.blocks.erase(block);
}

int32_t PrefixMap::cached_blocks(const WorkerRef& worker, std::span<const BlockHash> chain) const {
  const auto it = workers_.find(worker);
  if (it == workers_.end()) return 0;
  const auto& blocks = it->second.blocks;
  const auto missing = std::ranges::find_if(chain, [&](const BlockHash& b) { return !blocks.contains(b); });
  return static_cast<int32_t>(missing - chain.begin());
}

int64_t PrefixMap::blocks(const WorkerRef& worker) const {
  const auto it = workers_.find(worker);
  return it == workers_.end() ? 0 : static_cast<int64_t>(it->second.blocks.size());
}

}  // namespace baton::coordinator
