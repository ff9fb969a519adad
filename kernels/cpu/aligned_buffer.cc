#include "kernels/cpu/aligned_buffer.h"

#include <sys/mman.h>

namespace baton::kernels::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const size_t padded = (bytes + alignment - 1) / alignment * alignment;
  if (padded == 0) return;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, padded)));
  BATON_CHECK(data_ != nullptr, "out of memory");
  if (alignment == kHugePage) madvise(data_.get(), padded, MADV_HUGEPAGE);  // advice: may be refused
  std::memset(data_.get(), 0, padded);
}

}  // namespace baton::kernels::cpu
