#include "kernels/cpu/panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/float16.h"
#include "kernels/quant_block.h"

namespace baton::kernels::cpu {
namespace {

constexpr int kGroup = contract::kGroup;

size_t bytes_of_panel(DType type, int64_t cols, int k_shards) {
  if (!is_quantised(type)) return cols * kPanelRows * traits_of(type).bytes;
  const int64_t slabs = (cols / k_shards + kSlabCols - 1) / kSlabCols;
  return k_shards * slabs * panel_format(type).slab_bytes();
}

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

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

Panels::Panels(const WeightView& weight, int k_shards, ThreadPool& pool, WeightArena& arena)
    : type_(weight.type),
      rows_(weight.rows),
      cols_(weight.cols),
      k_shards_(k_shards),
      panel_bytes_(bytes_of_panel(weight.type, weight.cols, k_shards)),
      data_(arena.take(panels() * panel_bytes_)) {
  pool.run([&](int thread) {
    const Share share = share_of(panels(), thread, pool.size());
    for (int64_t p = share.begin; p < share.end; ++p) pack_panel(weight, p);
  });
}

void Panels::pack_panel(const WeightView& weight, int64_t index) {
  std::byte* panel = data_.get() + index * panel_bytes_;
  const DTypeTraits traits = traits_of(type_);
  const int64_t stride = cols_ / traits.elements * traits.bytes;
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

void Panels::put_group(std::byte* slab, int half, int lane, const int8_t* codes) const {
  const PanelFormat format = panel_format(type_);
  auto* bytes = reinterpret_cast<uint8_t*>(slab) + half * format.code_bytes() / 2 + lane * 4;
  if (format.code_bits == 8) {
    for (int k = 0; k < kGroup; ++k)
      bytes[k / 4 * 64 + k % 4] = static_cast<uint8_t>(codes[k] + format.zero());
    return;
  }
  for (int k = 0; k < kGroup; ++k) {
    const int code = format.indexed ? static_cast<int>(std::ranges::find(kIq2Codes, codes[k]) - kIq2Codes)
                                    : codes[k] + format.zero();
    bytes[k / 8 * 64 + k % 4] |= static_cast<uint8_t>(k % 8 < 4 ? code : code << 4);
  }
}

}  // namespace baton::kernels::cpu
