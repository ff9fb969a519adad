#pragma once

#include <immintrin.h>

namespace baton::kernels::cpu::simd {

// While it lives, this thread's float instructions read and write denormals as zeros: what the bf16 dot
// instruction does, for machines that compute its two steps with plain multiply-adds. The barriers keep loads
// and stores, and with them everything computed between, inside.
class FlushDenormals {
 public:
  [[gnu::always_inline]] FlushDenormals() : before_(_mm_getcsr()) {
    _mm_setcsr(before_ | 0x8040u);
    asm volatile("" ::: "memory");
  }
  [[gnu::always_inline]] ~FlushDenormals() {
    asm volatile("" ::: "memory");
    _mm_setcsr(before_);
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

}  // namespace baton::kernels::cpu::simd
