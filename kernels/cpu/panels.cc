#include "kernels/cpu/panels.h"

#include <cstring>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/pack_sixteen.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/float16.h"
#include "kernels/quant_block.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::cpu {
namespace {

constexpr int kGroup = contract::kGroup;

size_t bytes_of_panel(DType type, int64_t cols, int k_shards) {
  if (type == DType::kBF16) return (cols + 1) / 2 * 2 * kPanelRows * sizeof(uint16_t);
  if (!is_quantised(type)) return cols * kPanelRows * traits_of(type).bytes;
  const int64_t slabs = (cols / k_shards + kSlabCols - 1) / kSlabCols;
  return k_shards * slabs * panel_format(type).slab_bytes();
}

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

// The place of a code in kIq2Codes, which ascend.
constexpr uint8_t iq2_index(int8_t code) {
  uint8_t index = 0;
  for (int i = 1; i < 6; ++i) index = static_cast<uint8_t>(index + (code >= kIq2Codes[i]));
  return index;
}
static_assert(iq2_index(kIq2Codes[0]) == 0 && iq2_index(kIq2Codes[5]) == 5);

// The scale (or minimum) `from` of an opened block becomes that of group `index` of a slab.
struct ScaleSource {
  const QuantBlock& block;
  int64_t from;
  bool min;
};
void put_scale(const PanelFormat& format, const ScaleSource& source, int index, int lane, std::byte* slab) {
  const auto& [block, from, min] = source;
  std::byte* at = slab + format.scale_offset(index, min) + lane * format.scale_bytes();
  const float value = min ? block.min[from] : block.scale[from];
  switch (format.form) {
    case ScaleForm::kHalf:
      return put(at, float_to_half(value));  // exact: it was one in the file
    case ScaleForm::kFloat:
      return put(at, value);
    case ScaleForm::kMultiplier:
      put(at, min ? block.min_multiplier[from] : block.multiplier[from]);
      put(slab + format.factor_offset(min) + lane * 2, min ? block.min_factor : block.factor);
  }
}

}  // namespace

size_t packed_bytes(const WeightView& weight, int k_shards) {
  return (weight.rows + kPanelRows - 1) / kPanelRows * bytes_of_panel(weight.type, weight.cols, k_shards);
}

Panels::Panels(const WeightView& weight, int k_shards, ThreadPool& pool, WeightArena& arena)
    : type_(weight.type),
      rows_(weight.rows),
      cols_(weight.cols),
      k_shards_(k_shards),
      panel_bytes_(bytes_of_panel(weight.type, weight.cols, k_shards)),
      data_(arena.take(packed_bytes(weight, k_shards))) {
  pool.run([&](int thread) {
    const Share share = share_of(panels(), thread, pool.size());
    for (int64_t p = share.begin; p < share.end; ++p) pack_panel(weight, p);
  });
}

void Panels::pack_panel(const WeightView& weight, int64_t index) {
  std::byte* panel = data_.get() + index * panel_bytes_;
  const auto stride = static_cast<int64_t>(row_stride(weight));
  if ((index + 1) * kPanelRows <= rows_)
    return pack_sixteen({type_, weight.data + index * kPanelRows * stride, stride, cols_, k_shards_}, panel);
  // The last rows of a matrix, when they are no whole panel.
  for (int lane = 0; lane < kPanelRows && index * kPanelRows + lane < rows_; ++lane) {
    const std::byte* row = weight.data + (index * kPanelRows + lane) * stride;
    if (is_quantised(type_)) {
      pack_quantised_row(row, lane, panel);
    } else {
      pack_float_row(row, lane, panel);
    }
  }
}

void Panels::pack_float_row(const std::byte* row, int lane, std::byte* panel) const {
  const size_t bytes = traits_of(type_).bytes;
  if (type_ == DType::kBF16) {
    for (int64_t k = 0; k < cols_; ++k)
      std::memcpy(panel + brain_index(k, lane) * sizeof(uint16_t), row + k * sizeof(uint16_t),
                  sizeof(uint16_t));
    return;
  }
  for (int64_t k = 0; k < cols_; ++k)
    std::memcpy(panel + (k * kPanelRows + lane) * bytes, row + k * bytes, bytes);
}

void Panels::pack_quantised_row(const std::byte* row, int lane, std::byte* panel) const {
  const PanelFormat format = panel_format(type_);
  const DTypeTraits traits = traits_of(type_);
  const int64_t shard_groups = cols_ / k_shards_ / kGroup;
  const int64_t shard_slabs = (shard_groups + 1) / 2;
  QuantBlock block;
  for (int64_t group = 0; group < cols_ / kGroup; ++group) {
    const int64_t in_block = group * kGroup % traits.elements;
    if (in_block == 0) open_block(type_, row + group * kGroup / traits.elements * traits.bytes, block);
    const int64_t in_shard = group % shard_groups;
    const int half = static_cast<int>(in_shard % 2);
    std::byte* slab = panel + (group / shard_groups * shard_slabs + in_shard / 2) * format.slab_bytes();
    put_group(slab, half, lane, block.codes.data() + in_block);
    const int parts = kGroup / format.group;  // scales of this group of 32
    for (int s = 0; s < parts; ++s) {
      const int64_t from = in_block / format.group + s;
      put_scale(format, {block, from, false}, half * parts + s, lane, slab);
      if (format.has_min) put_scale(format, {block, from, true}, half * parts + s, lane, slab);
    }
  }
}

// Four columns of a row are one word of the panel, four of low and four of high nibbles in 4-bit formats.
void Panels::put_group(std::byte* slab, int half, int lane, const int8_t* codes) const {
  const PanelFormat format = panel_format(type_);
  std::byte* lines = slab + half * format.code_bytes() / 2 + lane * 4;
  uint8_t stored[kGroup];
  const auto zero = static_cast<uint8_t>(format.zero());
  for (int k = 0; k < kGroup; ++k)
    stored[k] =
        format.indexed ? iq2_index(codes[k]) : static_cast<uint8_t>(static_cast<uint8_t>(codes[k]) + zero);
  uint32_t words[kGroup / 4];
  std::memcpy(words, stored, sizeof words);
  if (format.code_bits == 8) {
    for (int i = 0; i < kGroup / 4; ++i) put(lines + i * 64, words[i]);
  } else {
    for (int i = 0; i < kGroup / 8; ++i) put(lines + i * 64, words[2 * i] | words[2 * i + 1] << 4);
  }
}

}  // namespace baton::kernels::cpu
