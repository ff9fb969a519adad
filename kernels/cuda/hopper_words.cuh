#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_words.cuh"
#include "kernels/cuda/tensor_map.h"

// The machine instructions of sm_90a, each behind one word, as device_words.cuh has those of every GPU:
// barriers that count bytes, tensor loads (TMA), and matrix products of a warpgroup (128 threads that start
// at a multiple of 128). Section numbers are of the PTX ISA, version 8.8. What they mean is written down once
// more, to be run on the CPU, in tests/kernels/cuda/emulation/emulated_hopper.h.
namespace baton::kernels::cuda {

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// mbarrier (9.7.13.15): a phase ends when `arrivals` have arrived and all expected bytes have come; then the
// next one begins. Phases are counted from 0; the one to wait for is named by its parity.
__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
}
// After the inits, before the block's barrier: threads and the copy engine see them.
__device__ inline void barriers_ready() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void barrier_arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t ended = 0;
  while (ended == 0)
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
}

// cp.async.bulk.tensor (9.7.9.25.5): the box of `map` that starts at column x, row y; zeros beyond the
// tensor. All bytes of the box count on `barrier`. `shared`: a multiple of 1024 (the swizzle's period).
__device__ inline void tensor_load(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier))
      : "memory");
}

// wgmma (9.7.15.5): d[64][N] = (add ? d : 0) + a[64][16] b[N][16]^T. Lane 4g + t of warp w holds rows 16w + g
// (d[4j], d[4j + 1]) and 16w + g + 8 (d[4j + 2], d[4j + 3]), columns 8j + 2t and 8j + 2t + 1. Registers and
// operands are the instruction's from its issue until a wait; a fence stands between other uses of the
// registers and the issue.
// Keeps the compiler from moving uses of the registers across this place: before a fence and after a wait.
template <int kValues>
__device__ inline void hold(float (&d)[kValues]) {
#pragma unroll
  for (int v = 0; v < kValues; ++v) asm volatile("" : "+f"(d[v])::"memory");
}
__device__ inline void hold(MatrixA& a) {
  asm volatile("" : "+r"(a.a0), "+r"(a.a1), "+r"(a.a2), "+r"(a.a3)::"memory");
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `kPending` groups are under way.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define BATON_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define BATON_D16(d, i) BATON_D4(d, i), BATON_D4(d, i + 4), BATON_D4(d, i + 8), BATON_D4(d, i + 12)
#define BATON_R16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define BATON_R32 BATON_R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define BATON_R64                                                                                          \
  BATON_R32                                                                                                \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, "                                                                                                  \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// `kind`: what follows the columns in the instruction's name; `operands`: descriptors and predicate, then
// signs and, of 16-bit operands, orders (not transposed).
#define BATON_WGMMA(name, values, columns, kind, registers, add_at, operands, ...)                         \
  __device__ inline void name(float(&d)[values], uint64_t a, uint64_t b, bool add) {                       \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" add_at                                                 \
                 ", 0; wgmma.mma_async.sync.aligned.m64n" columns kind " {" registers "}, " operands "; }" \
                 : __VA_ARGS__                                                                             \
                 : "l"(a), "l"(b), "r"(int(add)));                                                         \
  }
#define BATON_WGMMAS(name, kind, tail)                                                             \
  BATON_WGMMA(name, 4, "8", kind, "%0, %1, %2, %3", "6", "%4, %5, p, 1, 1" tail, BATON_D4(d, 0))   \
  BATON_WGMMA(name, 8, "16", kind, "%0, %1, %2, %3, %4, %5, %6, %7", "10", "%8, %9, p, 1, 1" tail, \
              BATON_D4(d, 0), BATON_D4(d, 4))                                                      \
  BATON_WGMMA(name, 16, "32", kind, BATON_R16, "18", "%16, %17, p, 1, 1" tail, BATON_D16(d, 0))    \
  BATON_WGMMA(name, 32, "64", kind, BATON_R32, "34", "%32, %33, p, 1, 1" tail, BATON_D16(d, 0),    \
              BATON_D16(d, 16))                                                                    \
  BATON_WGMMA(name, 64, "128", kind, BATON_R64, "66", "%64, %65, p, 1, 1" tail, BATON_D16(d, 0),   \
              BATON_D16(d, 16), BATON_D16(d, 32), BATON_D16(d, 48))
BATON_WGMMAS(wgmma_bf16, "k16.f32.bf16.bf16", ", 0, 0")
// d[64][N] = (add ? d : 0) + a[64][32] b[N][32]^T of e4m3 numbers.
BATON_WGMMAS(wgmma_e4m3, "k32.f32.e4m3.e4m3", "")
#undef BATON_WGMMAS
#undef BATON_WGMMA
#undef BATON_R64
#undef BATON_R32
#undef BATON_R16
#undef BATON_D16
// d[64][64] += a[64][16] b[16][64]: a in registers, the fragment of mma_bf16 for rows 16w .. 16w + 15 of warp
// w; b N-major (its rows are k).
__device__ inline void wgmma_bf16_rows(float (&d)[32], MatrixA a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : BATON_D4(d, 0), BATON_D4(d, 4), BATON_D4(d, 8), BATON_D4(d, 12), BATON_D4(d, 16), BATON_D4(d, 20),
        BATON_D4(d, 24), BATON_D4(d, 28)
      : "r"(a.a0), "r"(a.a1), "r"(a.a2), "r"(a.a3), "l"(b));
}
#undef BATON_D4

// Four floats rounded to nearest even, beyond 448 to 448; `a` in the lowest byte (9.7.9.21).
__device__ inline uint32_t pack_e4m3(float a, float b, float c, float d) {
  uint32_t out;
  asm("{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, %2, %1; cvt.rn.satfinite.e4m3x2.f32 high, %4, "
      "%3; "
      "mov.b32 %0, {low, high}; }"
      : "=r"(out)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return out;
}

// What this thread stored in shared memory is seen by products and tensor loads after the next barrier
// (9.7.13.4).
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// The barrier of threads 0 .. 127 alone.
__device__ inline void sync_group() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// What other blocks have written, past this SM's cache.
__device__ inline float load_fresh(const float* global) { return __ldcg(global); }

}  // namespace baton::kernels::cuda
