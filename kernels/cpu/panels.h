#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/backend.h"
#include "kernels/cpu/weight_arena.h"

namespace baton::kernels::cpu {

class ThreadPool;

inline constexpr int kPanelRows = 16;  // output rows of a panel = lanes of a vector
inline constexpr int kSlabCols = 64;   // columns of a slab

// How the weights of one GGUF type lie in memory. Sixteen output rows form a panel, read as one stream:
//   quantised: [K shard][slab of 64 columns]{ codes of 2 groups of 32 | scales | minima }, all on 64-byte
//   lines
//     8-bit codes [K/4][16 rows][4 B], 4-bit codes [K/8][16 rows][4 B] (low nibbles the first four columns)
//     scales, then minima, in one of three forms
//       fp16: [64/group][16 rows], types whose file scale is one fp16
//       f32: [64/group][16 rows]
//       multipliers: int8 [64/group][16 rows], scales and minima; then the block's fp16 factor [16 rows], of
//       the scales and of the minima. A slab lies in one block of 256, since shards are whole slabs.
//     a shard of an odd number of groups leaves the second half of its last slab unused
//   f32, f16: [K][16 rows] in the file's own element type
//   bf16: [K/2][16 rows][2]: a word holds two columns, an odd last column has a zero beside it
// Codes are stored unsigned, code + zero; the kernel starts its integer sum at -zero * (sum of the
// activations). Example Q4_1: slab = 512 + 64 + 64 B for 1,024 weights; gate and up of SmolLM2 (3072 x 576):
// 192 panels x 9 slabs. Q4_K: 512 + 2 * 32 + 2 * 32 B, 5 bits a weight.
// IQ2_XXS knows six codes; four bits hold their index in this table.
inline constexpr int kIq2CodeCount = 6;
inline constexpr int8_t kIq2Codes[16] = {-43, -25, -8, 8, 25, 43};

enum class ScaleForm : uint8_t { kHalf, kFloat, kMultiplier };

struct PanelFormat {
  int code_bits = 0;  // 4, 8; 0 = float type
  int group = 0;      // 16 or 32
  ScaleForm form = ScaleForm::kHalf;
  bool has_min = false;
  int zero_shift = -1;   // zero = 1 << zero_shift; -1 = zero is 0
  bool indexed = false;  // four bits are an index into kIq2Codes

  constexpr int zero() const { return zero_shift < 0 ? 0 : 1 << zero_shift; }
  constexpr int code_bytes() const { return kPanelRows * kSlabCols * code_bits / 8; }
  constexpr int scale_bytes() const {
    return form == ScaleForm::kMultiplier ? 1 : form == ScaleForm::kHalf ? 2 : 4;
  }
  // Offset in the slab of the 16 scales (or minima) of group `index` of the slab, and of their fp16 factors.
  constexpr int scale_offset(int index, bool min) const {
    const int all = kSlabCols / group * kPanelRows * scale_bytes();
    return code_bytes() + (min ? all : 0) + index * kPanelRows * scale_bytes();
  }
  constexpr int factor_offset(bool min) const {
    return scale_offset(has_min ? 2 * kSlabCols / group : kSlabCols / group, false) +
           (min ? 2 * kPanelRows : 0);
  }
  constexpr int slab_bytes() const {
    const int factors = form == ScaleForm::kMultiplier ? 2 * kPanelRows * (has_min ? 2 : 1) : 0;
    return (factor_offset(false) + factors + 63) / 64 * 64;
  }
};

constexpr PanelFormat panel_format(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {.code_bits = 4, .group = 32, .form = ScaleForm::kHalf, .has_min = false, .zero_shift = 3};
    case DType::kQ4_1:
      return {.code_bits = 4, .group = 32, .form = ScaleForm::kHalf, .has_min = true, .zero_shift = -1};
    case DType::kQ8_0:
      return {.code_bits = 8, .group = 32, .form = ScaleForm::kHalf, .has_min = false, .zero_shift = 7};
    case DType::kQ2_K:
      return {.code_bits = 4, .group = 16, .form = ScaleForm::kMultiplier, .has_min = true, .zero_shift = -1};
    case DType::kQ4_K:
      return {.code_bits = 4, .group = 32, .form = ScaleForm::kMultiplier, .has_min = true, .zero_shift = -1};
    case DType::kQ5_K:
      return {.code_bits = 8, .group = 32, .form = ScaleForm::kMultiplier, .has_min = true, .zero_shift = -1};
    case DType::kQ6_K:
      return {.code_bits = 8, .group = 16, .form = ScaleForm::kMultiplier, .has_min = false, .zero_shift = 5};
    case DType::kIQ2_XXS:
      return {.code_bits = 4, .group = 32, .form = ScaleForm::kFloat, .zero_shift = 6, .indexed = true};
    default:
      return {};
  }
}

// Element of a bf16 panel.
constexpr int64_t brain_index(int64_t col, int lane) { return col / 2 * 2 * kPanelRows + lane * 2 + col % 2; }

// The packed weights as plain numbers, for the kernels (no inline functions: kernel files are compiled for
// newer instruction sets than the rest).
struct PanelsView {
  DType type = DType::kF32;
  int k_shards = 1;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  int64_t panel_bytes = 0;
};

// Memory that the panels of a matrix will take.
size_t packed_bytes(const WeightView& weight, int k_shards);

// A weight matrix repacked into panels. Immutable after packing; owned by the linear.
class Panels {
 public:
  // Opens and repacks with every thread of the pool. `weight` was checked (backend_checks.h).
  Panels(const WeightView& weight, int k_shards, ThreadPool& pool, WeightArena& arena);

  DType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t panels() const { return (rows_ + kPanelRows - 1) / kPanelRows; }
  PanelsView view() const {
    return {type_, k_shards_, rows_, cols_, data_.get(), static_cast<int64_t>(panel_bytes_)};
  }
  size_t bytes() const { return panels() * panel_bytes_; }

 private:
  void pack_panel(const WeightView& weight, int64_t index);
  void pack_float_row(const std::byte* row, int lane, std::byte* panel) const;
  void pack_quantised_row(const std::byte* row, int lane, std::byte* panel) const;
  void put_group(std::byte* slab, int half, int lane, const int8_t* codes) const;

  DType type_;
  int64_t rows_;
  int64_t cols_;
  int k_shards_;
  size_t panel_bytes_;
  std::shared_ptr<std::byte> data_;  // a piece of the arena
};

}  // namespace baton::kernels::cpu
