#pragma once

#include <cstddef>
#include <memory>

#include "kernels/cpu/aligned_buffer.h"

namespace baton::kernels::cpu {

// Memory of packed weights: chunks of huge pages, dealt out piece by piece, so that layers of a megabyte do
// not cost a page walk every 4 KiB. Thread: one (loading).
class WeightArena {
 public:
  // `bytes` zeroed bytes on a 64-byte line. Shared, because a chunk lives as long as any layer in it and
  // layers may be dropped before or after the backend that made them.
  std::shared_ptr<std::byte> take(size_t bytes);

 private:
  static constexpr size_t kChunkBytes = size_t{32} << 20;

  std::shared_ptr<AlignedBuffer> chunk_;
  size_t used_ = 0;  // of chunk_
};

}  // namespace baton::kernels::cpu
