#include "kernels/cpu/aligned_buffer.h"

#include <sys/mman.h>

namespace baton::kernels::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Fresh pages are zero and take memory when they are first written, by the thread that does it.
std::byte* map_huge_pages(size_t bytes) {
  void* map = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  BATON_CHECK(map != MAP_FAILED, "out of memory");
  const auto start = reinterpret_cast<uintptr_t>(map);
  const uintptr_t begin = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (begin > start) ::munmap(map, begin - start);
  if (begin < start + kHugePage) ::munmap(reinterpret_cast<void*>(begin + bytes), start + kHugePage - begin);
  ::madvise(reinterpret_cast<void*>(begin), bytes, MADV_HUGEPAGE);  // advice: may be refused
  return reinterpret_cast<std::byte*>(begin);
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : size_(bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t alignment = huge ? kHugePage : 64;
  const size_t padded = (bytes + alignment - 1) / alignment * alignment;
  if (padded == 0) return;
  if (huge) {
    data_ = {map_huge_pages(padded), Free{padded}};
    return;
  }
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, padded)));
  BATON_CHECK(data_ != nullptr, "out of memory");
  std::memset(data_.get(), 0, padded);
}

void AlignedBuffer::Free::operator()(std::byte* p) const {
  if (mapped > 0) {
    ::munmap(p, mapped);
  } else {
    std::free(p);
  }
}

}  // namespace baton::kernels::cpu
