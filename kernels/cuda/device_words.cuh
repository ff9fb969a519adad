#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <nv/target>

#include "kernels/cuda/launch_stream.h"

// The machine instructions that the kernels use, each behind one word. Kernels (*.cuh) name these and plain
// CUDA only; tests/kernels/cuda/emulation/emulated_device.h gives the same words on the CPU, where the
// kernels run as fibers.
namespace baton::kernels::cuda {

__device__ inline float bf16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Two floats rounded to nearest even; `low` in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
__device__ inline uint16_t float_to_bf16(float value) {
  return static_cast<uint16_t>(pack_bf16(value, 0.0f));
}

// 2^x by the special function unit: the same bits on every run, within 2 ulp; 2^-inf = 0.
__device__ inline float exp2_fast(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

// c[16][8] += a[16][16] b[16][8]. Lane 4g + t holds a rows g, g+8 (a0, a1: columns 2t, 2t+1; a2, a3: 8 more),
// b column g (b0: rows 2t, 2t+1; b1: 8 more), c rows g (c0, c1) and g+8 (c2, c3), columns 2t, 2t+1.
struct MatrixA {
  uint32_t a0, a1, a2, a3;
};
__device__ inline void mma_bf16(float (&c)[4], MatrixA a, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.a0), "r"(a.a1), "r"(a.a2), "r"(a.a3), "r"(b0), "r"(b1));
}

// b0, b1 of mma_bf16 for a matrix that lies in shared memory as rows of columns: lane l < 16 names row l of
// 16, each 8 columns wide (16 bytes).
__device__ inline void load_transposed(uint32_t& b0, uint32_t& b1, const void* row) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(b0), "=r"(b1)
               : "r"(at));
}

// 16 bytes to shared memory without waiting: the first `bytes` from memory, the others zeros.
__device__ inline void copy_async16(void* shared, const void* global, int bytes) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four words that are read once: past the L1 cache.
struct Words4 {
  uint32_t x, y, z, w;
};
__device__ inline Words4 load_once16(const void* global) {
  Words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}
__device__ inline Words4 load16(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
}

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char baton_shared_memory[];
  return baton_shared_memory;
}

// Programmatic dependent launch (launch_stream.h; PTX ISA 9.7.13.13): nothing where the kernel was launched
// without. Kernels before this one have ended, and what they wrote is seen.
__device__ inline void wait_for_kernels() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.wait;" :: : "memory");))
}
// The next kernel may start as soon as all blocks of this one have come here.
__device__ inline void let_next_start() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.launch_dependents;" :: : "memory");))
}
// First in every kernel.
__device__ inline void begin_kernel() {
  wait_for_kernels();
  let_next_start();
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, LaunchStream stream,
            const Arguments&... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.stream;
  config.attrs = &overlap;
  config.numAttrs = stream.overlap ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace baton::kernels::cuda
