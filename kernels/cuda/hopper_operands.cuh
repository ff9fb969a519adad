#pragma once

// Matrix descriptors of wgmma: plain arithmetic, the same on the emulated device. Section numbers as in
// hopper_words.cuh, which (or whose emulation) stands before this.
namespace baton::kernels::cuda {

// Where a K-major bf16 operand lies (matrix descriptor, 9.7.15.5.1.2.2): rows of 128 bytes with the 128-byte
// swizzle, 8 rows = 1024 bytes = the stride; the leading offset is not used with it (1).
__device__ inline uint64_t swizzled_operand(const void* shared) {
  const uint64_t address = shared_address(shared);
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
// An N-major operand b[16][64] (rows are k, 128 bytes each, the same swizzle): 8 rows are the stride too; the
// leading offset would lead to columns 64 and on, which are not used. Rows 16 k and on: 2,048 bytes each.
__device__ inline uint64_t rows_on(uint64_t operand, int k) { return operand + k * (2048 >> 4); }
// The operand 16 * k columns further on in the same rows (32 bytes each).
__device__ inline uint64_t columns_on(uint64_t operand, int k) { return operand + k * (32 >> 4); }

}  // namespace baton::kernels::cuda
