#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/ids.h"

namespace baton::worker {

struct HostSlotTag {
  static constexpr const char* kPrefix = "h";
};
struct HostCopyTag {
  static constexpr const char* kPrefix = "c";
};
// Index of a place for one block in host memory: 0 .. slots - 1.
using HostSlot = Id<HostSlotTag, uint32_t>;
// Unique inside one worker incarnation.
using HostCopyId = Id<HostCopyTag, uint64_t>;

// Blocks to be copied, all layers of them, from the pool to host memory or back.
struct HostCopy {
  struct Block {
    BlockId block;
    HostSlot slot;
  };
  HostCopyId id;
  bool out = false;  // from the pool; else into it
  std::vector<Block> blocks;
};

// The end of one: nobody reads or writes its blocks and slots any more.
struct HostCopied {
  HostCopyId id;
  std::string error;  // empty when all bytes are where they should be
};
using HostCopiedSink = std::function<void(HostCopied)>;

// Who moves blocks between the pool and host memory. The engine knows blocks and slots, not bytes. copy()
// returns at once; copies are done in the order in which they were given, so that a slot can be given away,
// and read, before what was ordered earlier has ended. Each ends with exactly one HostCopied, in the same
// order, through the sink given at construction (it posts into the engine's mailbox). Thread: engine.
// Implementations: worker/kv_transfer HostCopier, tests (virtual time).
class HostCopies {
 public:
  virtual ~HostCopies() = default;
  virtual void copy(HostCopy copy) = 0;
};

}  // namespace baton::worker
