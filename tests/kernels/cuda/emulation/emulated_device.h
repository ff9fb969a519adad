#pragma once

#include <cuda_runtime_api.h>
#include <atomic>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>

#include "kernels/cuda/launch_stream.h"
#include "tests/kernels/cuda/emulation/emulated_runtime.h"

// Runs CUDA kernels on the CPU, so that their index arithmetic, barriers and tile edges are tested where
// there is no device: the threads of a block are fibers that switch at barriers and warp operations; blocks
// run one after the other. Include this, then a *.cuh of kernels/cuda. It stands in for device_words.cuh and
// the parts of CUDA that kernels use. Checked on the way: shared memory starts as NaN in every block; an
// asynchronous copy lands only when it is waited for; a warp operation without all 32 lanes, or threads at
// different barriers, ends the test. Not emulated: timing, races between barriers. Thread: one. wgmma and
// TMA: emulated_hopper.h.
namespace baton::emulated {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index thread_index, block_index, grid_size;

// Runs `kernel` for every thread of every block.
void launch(Index grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel);

// A kernel on a stream: runs now, or with `overlap` as late as is allowed: when the next one waits for it, or
// when something else is to be done (end_kernels). Ends the test when a kernel has ended that did not wait.
void start_kernel(bool overlap, std::function<void()> kernel);
void end_kernels();
void wait_for_kernels();

void sync_threads();
void sync_first(unsigned threads);  // threads 0 .. threads - 1 alone
void sync_warp();
// Every lane gives up to 64 bytes and sees those of all lanes, until its next warp operation.
struct Deposit {
  alignas(16) unsigned char bytes[64];
};
std::span<const Deposit, 32> warp_exchange(const void* bytes, size_t size);
unsigned char* shared_memory();
// The block's shared memory as the machine addresses it; ends the test outside of it.
uint32_t shared_address(const void* shared);
unsigned char* shared_at(uint32_t address);
// Lets the other threads run; what a wait that is not a barrier's does until something has changed
// (note_progress).
void yield();
void note_progress();
// Ends the test: a load of so many bytes from elsewhere is an error of the device.
void check_aligned(const void* at, size_t bytes);
void queue_copy(void* shared, const void* global, int bytes);
void commit_copies();
void wait_copies(int pending);

template <class T>
T shuffle(T value, int lane) {
  const auto all = warp_exchange(&value, sizeof value);
  T out;
  std::memcpy(&out, all[lane].bytes, sizeof out);
  return out;
}

}  // namespace baton::emulated

#define __global__ inline
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define threadIdx ::baton::emulated::thread_index
#define blockIdx ::baton::emulated::block_index
#define gridDim ::baton::emulated::grid_size

inline void __syncthreads() { baton::emulated::sync_threads(); }
inline void __syncwarp() { baton::emulated::sync_warp(); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int apart) {
  return baton::emulated::shuffle(value, static_cast<int>(threadIdx.x % 32) ^ apart);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return baton::emulated::shuffle(value, lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int apart) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return baton::emulated::shuffle(value, lane < apart ? lane : lane - apart);
}
inline uint32_t __ballot_sync(unsigned, bool yes) {
  uint32_t lanes = 0;
  const auto all = baton::emulated::warp_exchange(&yes, sizeof yes);
  for (int l = 0; l < 32; ++l) lanes |= uint32_t{all[l].bytes[0] != 0} << l;
  return lanes;
}
inline int __ffs(uint32_t x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }

namespace baton::kernels::cuda {

inline float bf16_to_float(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(float_to_bf16(high)) << 16 | float_to_bf16(low);
}
inline float exp2_fast(float x) { return std::exp2(x); }

struct MatrixA {
  uint32_t a0, a1, a2, a3;
};
void mma_bf16(float (&c)[4], MatrixA a, uint32_t b0, uint32_t b1);
void load_transposed(uint32_t& b0, uint32_t& b1, const void* row);

inline void wait_for_kernels() { emulated::wait_for_kernels(); }
inline void let_next_start() {}
inline void begin_kernel() { wait_for_kernels(); }

inline void copy_async16(void* shared, const void* global, int bytes) {
  emulated::queue_copy(shared, global, bytes);
}
inline void copy_async_commit() { emulated::commit_copies(); }
template <int kPending>
void copy_async_wait() {
  emulated::wait_copies(kPending);
}

struct Words4 {
  uint32_t x, y, z, w;
};
inline Words4 load16(const void* from) {
  emulated::check_aligned(from, 16);
  Words4 v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline Words4 load_once16(const void* global) { return load16(global); }
inline unsigned char* shared_memory() { return emulated::shared_memory(); }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, LaunchStream stream,
            const Arguments&... arguments) {
  emulated::enqueue(stream.stream, [=] {
    ++std::atomic_ref(emulated::counts().launches);
    emulated::start_kernel(stream.overlap, [=] {
      emulated::launch({grid.x, grid.y, 1}, static_cast<unsigned>(threads), shared_bytes,
                       [&] { kernel(arguments...); });
    });
  });
}

}  // namespace baton::kernels::cuda
