#include "kernels/cpu/panels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/rng.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/dequantize.h"
#include "kernels/quant_block.h"
#include "tests/support/seed.h"

namespace baton::kernels::cpu {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16,   DType::kQ8_0,
                            DType::kQ4_0, DType::kQ4_1, DType::kQ2_K,   DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K, DType::kIQ2_XXS};

// Random bytes but for the fp16 scales, which are finite.
std::vector<std::byte> random_rows(DType type, int64_t rows, int64_t cols, Rng& rng) {
  std::vector<std::byte> out(rows * row_bytes(type, cols).value());
  for (std::byte& b : out) b = static_cast<std::byte>(rng.below(256));
  if (!is_quantised(type)) return out;
  const int size = traits_of(type).bytes;
  for (size_t block = 0; block < out.size(); block += size)
    for (const int at : {0, 2, 80, 82, 208})  // wherever a format may have one: high bytes below infinity
      if (at + 1 < size) out[block + at + 1] &= std::byte{0xbb};
  return out;
}

// The layout of panels.h element by element, one row after the other.
class SimplePacker {
 public:
  SimplePacker(const WeightView& weight, int k_shards) : w_(weight), shards_(k_shards) {
    const int64_t panels = (w_.rows + 15) / 16;
    const PanelFormat format = panel_format(w_.type);
    const int64_t slabs = (w_.cols / shards_ + kSlabCols - 1) / kSlabCols * shards_;
    panel_bytes_ =
        is_quantised(w_.type) ? slabs * format.slab_bytes() : stored_cols() * 16 * traits_of(w_.type).bytes;
    out_.resize(panels * panel_bytes_);
    for (int64_t row = 0; row < w_.rows; ++row) {
      const std::byte* from = w_.data + row * row_bytes(w_.type, w_.cols).value();
      std::byte* panel = out_.data() + row / 16 * panel_bytes_;
      is_quantised(w_.type) ? put_codes(from, row % 16, panel) : put_floats(from, row % 16, panel);
      if (is_quantised(w_.type)) put_scales(from, row % 16, panel);
    }
  }
  const std::vector<std::byte>& bytes() const { return out_; }

 private:
  struct Place {
    std::byte* slab;
    int64_t col;  // in the slab, 0..63
  };
  Place place(int64_t k, std::byte* panel) const {
    const int64_t shard_cols = w_.cols / shards_, in_shard = k % shard_cols;
    const int64_t shard_slabs = (shard_cols + kSlabCols - 1) / kSlabCols;
    const int64_t slab = k / shard_cols * shard_slabs + in_shard / kSlabCols;
    return {panel + slab * panel_format(w_.type).slab_bytes(), in_shard % kSlabCols};
  }
  // bf16 columns lie in pairs; an odd last one has a zero beside it.
  int64_t stored_cols() const { return w_.type == DType::kBF16 ? (w_.cols + 1) / 2 * 2 : w_.cols; }
  void put_floats(const std::byte* from, int64_t lane, std::byte* panel) const {
    const int size = traits_of(w_.type).bytes;
    const int64_t together = w_.type == DType::kBF16 ? 2 : 1;
    for (int64_t k = 0; k < w_.cols; ++k) {
      const int64_t place = (k / together * 16 + lane) * together + k % together;
      std::memcpy(panel + place * size, from + k * size, size);
    }
  }
  void put_codes(const std::byte* from, int64_t lane, std::byte* panel) const {
    const DTypeTraits traits = traits_of(w_.type);
    const PanelFormat format = panel_format(w_.type);
    QuantBlock block;
    for (int64_t k = 0; k < w_.cols; ++k) {
      if (k % traits.elements == 0) open_block(w_.type, from + k / traits.elements * traits.bytes, block);
      const int8_t value = block.codes[k % traits.elements];
      const auto code = static_cast<uint8_t>(format.indexed ? std::ranges::find(kIq2Codes, value) - kIq2Codes
                                                            : value + format.zero());
      const auto [slab, col] = place(k, panel);
      if (format.code_bits == 8)
        slab[col / 4 * 64 + lane * 4 + col % 4] = std::byte{code};
      else
        slab[col / 8 * 64 + lane * 4 + col % 4] |=
            std::byte{static_cast<uint8_t>(code << (col % 8 < 4 ? 0 : 4))};
    }
  }
  void put_scales(const std::byte* from, int64_t lane, std::byte* panel) const {
    const DTypeTraits traits = traits_of(w_.type);
    const PanelFormat format = panel_format(w_.type);
    QuantBlock block;
    for (int64_t k = 0; k < w_.cols; k += format.group) {
      const std::byte* stored = from + k / traits.elements * traits.bytes;
      open_block(w_.type, stored, block);
      const auto [slab, col] = place(k, panel);
      const int64_t group = k % traits.elements / format.group;
      for (const bool min : {false, true}) {
        if (min && !format.has_min) continue;
        std::byte* at = slab + format.scale_offset(static_cast<int>(col / format.group), min);
        if (format.form == ScaleForm::kHalf) {
          std::memcpy(at + lane * 2, stored + (min ? 2 : 0), 2);
        } else if (format.form == ScaleForm::kFloat) {
          std::memcpy(at + lane * 4, min ? &block.min[group] : &block.scale[group], 4);
        } else {
          std::memcpy(at + lane, min ? &block.min_multiplier[group] : &block.multiplier[group], 1);
          std::memcpy(slab + format.factor_offset(min) + lane * 2, min ? &block.min_factor : &block.factor,
                      2);
        }
      }
    }
  }

  WeightView w_;
  int shards_;
  int64_t panel_bytes_ = 0;
  std::vector<std::byte> out_;
};

int64_t differences(const Panels& packed, const SimplePacker& simple) {
  int64_t count = 0;
  for (size_t i = 0; i < simple.bytes().size(); ++i) count += packed.view().data[i] != simple.bytes()[i];
  return count;
}

TEST(PanelsTest, EqualTheSimplePackerForRandomShapes) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  for (int round = 0; round < 40; ++round) {
    ThreadPool pool(static_cast<int>(1 + rng.below(3)), {});
    for (const DType type : kTypes) {
      const int block = is_quantised(type) ? traits_of(type).elements : 1;
      const auto shards = static_cast<int>(1 + rng.below(4));
      const int64_t rows = static_cast<int64_t>(1 + rng.below(70));
      const int64_t cols = static_cast<int64_t>(1 + rng.below(8)) * shards * block;  // shards of whole groups
      const std::vector<std::byte> stored = random_rows(type, rows, cols, rng);
      const WeightView view = {type, stored.data(), rows, cols};
      WeightArena arena;
      const Panels packed(view, shards, pool, arena);
      const SimplePacker simple(view, shards);
      ASSERT_EQ(packed.bytes(), simple.bytes().size());
      EXPECT_EQ(packed_bytes(view, shards), simple.bytes().size());
      EXPECT_EQ(differences(packed, simple), 0)
          << traits_of(type).name << " " << rows << " x " << cols << " in " << shards << " shards";
    }
  }
}

// Packing leaves what it does not write as it is.
TEST(PanelsTest, BuffersAreZeroWhateverTheirSize) {
  for (const size_t bytes : {size_t{100}, size_t{1} << 20, (size_t{2} << 20) + 5, size_t{9} << 20}) {
    const AlignedBuffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    size_t set = 0;
    for (size_t i = 0; i < bytes; ++i) set += buffer.data()[i] != std::byte{0};
    EXPECT_EQ(set, 0u) << bytes;
    buffer.data()[bytes - 1] = std::byte{1};
  }
}

}  // namespace
}  // namespace baton::kernels::cpu
