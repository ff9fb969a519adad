#pragma once

#include <memory>

#include "kernels/cuda/tensor_map.h"
#include "kernels/float8.h"
#include "tests/kernels/cuda/emulation/emulated_device.h"

// The words of kernels/cuda/hopper_words.cuh on the CPU: what the PTX ISA (8.8) says that barriers
// (9.7.13.15), tensor loads (9.7.9.25.5, swizzle 5.5.7), matrix descriptors (9.7.15.5.1.2.2) and wgmma
// (9.7.15.5) do, element by element. As late as is allowed, so that a kernel that does not wait is found: a
// box is NaN from the load's issue until a thread waits for its barrier; wgmma reads shared memory when it is
// waited for, and its registers are NaN until then. Checked: alignments, what a descriptor may say, that all
// lanes give the same operands, that a fence stands before the first product, that no load is under way when
// a block ends. Not emulated: the hardware's order of summation inside a product (here: ascending), cache and
// proxy fences. Thread: one.
namespace baton::emulated {

// A block begins; it has ended.
void begin_hopper_block();
void end_hopper_block();
// Of a block that goes on later.
std::shared_ptr<void> put_hopper_block_aside();
void take_hopper_block_back(const std::shared_ptr<void>& block);

struct Barrier64 {
  uint32_t arrivals, left;
  int64_t bytes;
  uint32_t phase;
};

uint32_t shared_address(const void* shared);
void barrier_init(uint64_t* barrier, uint32_t arrivals);
void barrier_arrive(uint64_t* barrier, uint32_t bytes);
void barrier_wait(uint64_t* barrier, uint32_t parity);
void tensor_load(void* shared, const kernels::cuda::TensorMap& map, int x, int y, uint64_t* barrier);
enum class Numbers { kBrain, kE4m3 };  // k16 of bf16, k32 of e4m3
void wgmma(std::span<float> d, uint64_t a, uint64_t b, bool add, Numbers numbers);
void wgmma_rows(std::span<float> d, const kernels::cuda::MatrixA& a, uint64_t b);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace baton::emulated

#define __grid_constant__

inline void __threadfence() {}

namespace baton::kernels::cuda {

inline uint32_t shared_address(const void* shared) { return emulated::shared_address(shared); }
inline void barrier_init(uint64_t* barrier, uint32_t arrivals) { emulated::barrier_init(barrier, arrivals); }
inline void barriers_ready() {}
inline void barrier_arrive(uint64_t* barrier) { emulated::barrier_arrive(barrier, 0); }
inline void barrier_arrive_expecting(uint64_t* barrier, uint32_t bytes) {
  emulated::barrier_arrive(barrier, bytes);
}
inline void barrier_wait(uint64_t* barrier, uint32_t parity) { emulated::barrier_wait(barrier, parity); }
inline void tensor_load(void* shared, const TensorMap& map, int x, int y, uint64_t* barrier) {
  emulated::tensor_load(shared, map, x, y, barrier);
}
template <class Registers>
void hold(Registers&) {}
inline void wgmma_fence() { emulated::wgmma_fence(); }
inline void wgmma_commit() { emulated::wgmma_commit(); }
template <int kPending>
void wgmma_wait() {
  emulated::wgmma_wait(kPending);
}
template <size_t kValues>
void wgmma_bf16(float (&d)[kValues], uint64_t a, uint64_t b, bool add) {
  emulated::wgmma(d, a, b, add, emulated::Numbers::kBrain);
}
template <size_t kValues>
void wgmma_e4m3(float (&d)[kValues], uint64_t a, uint64_t b, bool add) {
  emulated::wgmma(d, a, b, add, emulated::Numbers::kE4m3);
}
inline uint32_t pack_e4m3(float a, float b, float c, float d) {
  uint32_t out = 0;
  for (const float value : {d, c, b, a}) out = out << 8 | float_to_e4m3(value);
  return out;
}
inline void wgmma_bf16_rows(float (&d)[32], MatrixA a, uint64_t b) { emulated::wgmma_rows(d, a, b); }
inline void fence_async() {}
inline void sync_group() { emulated::sync_first(128); }
inline float load_fresh(const float* global) { return *global; }

}  // namespace baton::kernels::cuda
