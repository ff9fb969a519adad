#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/backend.h"

namespace baton::worker {

// Takes memory from the system for the KV blocks that come next, while the engine has nothing else to do. A
// pool's pages are given at their first use, and that costs a prompt dearly: 2-3 us a page of shared memory
// on a virtual machine, 2 of 50 ms for 128 tokens of SmolLM2. Taking all of them at the start would hold a
// whole pool in memory that may never be used.
//
// Blocks are given out lowest first, so what is ahead is what lies behind the highest one ever used. A turn
// takes a run of one layer, at least 128 KiB: a command that comes meanwhile waits 0.1 ms. Example SmolLM2,
// 12,288 B a piece, 64 MiB ahead: 11 blocks a turn, 30 turns for their 30 layers, 182 blocks ahead.
//
// Thread: engine. Owns nothing; the content of the memory stays as it is. Errors: a system that does not take
// memory so, or has none left, ends it quietly: pages come at their first use then.
class PagesAhead {
 public:
  PagesAhead(std::span<std::byte> pool, const kernels::KvGeometry& geometry, size_t bytes_ahead);

  // One turn; false when enough is taken. `used`: one past the highest block that was ever in use.
  bool take(int64_t used);

 private:
  bool populate(size_t offset, size_t bytes);

  const std::span<std::byte> pool_;
  const kernels::KvGeometry geometry_;
  const int64_t ahead_;  // blocks
  const int64_t run_;    // blocks of a turn
  int64_t next_ = 0;     // the run that is being taken
  int layer_ = 0;        // of it
  bool over_ = false;
};

}  // namespace baton::worker
