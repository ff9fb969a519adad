#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/check.h"

namespace baton::kernels::cpu {

// Zeroed bytes on a 64-byte boundary, freed with the object. From 2 MiB on they are huge pages of their own,
// which take memory at the first touch: let the thread that will read them write them. Moves, does not copy.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  // Replaces the buffer by a larger one when it is smaller than `bytes`; the content is then zero.
  void grow(size_t bytes) {
    if (bytes > size_) *this = AlignedBuffer(bytes);
  }

 private:
  struct Free {
    size_t mapped;  // bytes of a mapping of its own; 0 = from the heap
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

}  // namespace baton::kernels::cpu
