#include "kernels/cpu/weight_arena.h"

#include <algorithm>

namespace baton::kernels::cpu {

std::shared_ptr<std::byte> WeightArena::take(size_t bytes) {
  const size_t padded = (bytes + 63) / 64 * 64;
  if (chunk_ == nullptr || chunk_->size() - used_ < padded) {
    chunk_ = std::make_shared<AlignedBuffer>(std::max(padded, kChunkBytes));
    used_ = 0;
  }
  std::byte* piece = chunk_->data() + used_;
  used_ += padded;
  return {chunk_, piece};
}

}  // namespace baton::kernels::cpu
