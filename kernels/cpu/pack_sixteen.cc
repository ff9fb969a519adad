#include "kernels/cpu/pack_sixteen.h"

#include <emmintrin.h>

#include <cstring>

#include "kernels/cpu/panels.h"
#include "kernels/quant_block.h"

namespace baton::kernels::cpu {
namespace {

constexpr int kGroup = 32;
constexpr int kLine = 64;         // bytes that hold the same word of sixteen rows
constexpr int kScalesBytes = 64;  // fp16 scales (or minima) of a slab: two groups of sixteen rows
constexpr int kPrefetch =
    3 * 64;  // bytes ahead in each row: sixteen streams are more than the hardware follows

__m128i load(const std::byte* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
void store(std::byte* to, __m128i value) { _mm_store_si128(reinterpret_cast<__m128i*>(to), value); }

// Word k of row r becomes word r of line k: four rows, four lines.
void transpose_words(const __m128i (&rows)[4], std::byte* lines) {
  const __m128i low01 = _mm_unpacklo_epi32(rows[0], rows[1]), high01 = _mm_unpackhi_epi32(rows[0], rows[1]);
  const __m128i low23 = _mm_unpacklo_epi32(rows[2], rows[3]), high23 = _mm_unpackhi_epi32(rows[2], rows[3]);
  store(lines, _mm_unpacklo_epi64(low01, low23));
  store(lines + kLine, _mm_unpackhi_epi64(low01, low23));
  store(lines + 2 * kLine, _mm_unpacklo_epi64(high01, high23));
  store(lines + 3 * kLine, _mm_unpackhi_epi64(high01, high23));
}

// A block is scales, then codes; both formats of codes end as lines of words. `lines`: the group's part of a
// slab, plus the place of four rows in a line.
struct Codes8 {
  static constexpr int kHeader = 2, kBlock = 34, kLines = 8;
  static void pack(const std::byte* const (&blocks)[4], std::byte* lines) {
    const __m128i zero = _mm_set1_epi8(-128);  // stored unsigned: + 128
    for (int half = 0; half < 2; ++half) {
      __m128i words[4];
      for (int r = 0; r < 4; ++r) words[r] = _mm_xor_si128(load(blocks[r] + kHeader + 16 * half), zero);
      transpose_words(words, lines + 4 * half * kLine);
    }
  }
};

// 4-bit codes as bytes, elements 0..15 and 16..31, to a panel's words: elements 8j..8j+3 in low and
// 8j+4..8j+7 in high nibbles.
__m128i nibble_words(__m128i low, __m128i high) {
  const __m128 first = _mm_castsi128_ps(_mm_or_si128(low, _mm_srli_epi64(low, 28)));
  const __m128 second = _mm_castsi128_ps(_mm_or_si128(high, _mm_srli_epi64(high, 28)));
  return _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
}

// The file has elements 0..15 in low nibbles and 16..31 in high ones.
template <int kHeaderBytes>
struct Codes4 {
  static constexpr int kHeader = kHeaderBytes, kBlock = kHeaderBytes + 16, kLines = 4;
  static void pack(const std::byte* const (&blocks)[4], std::byte* lines) {
    const __m128i nibble = _mm_set1_epi8(15);
    __m128i words[4];
    for (int r = 0; r < 4; ++r) {
      const __m128i packed = load(blocks[r] + kHeader);
      words[r] =
          nibble_words(_mm_and_si128(packed, nibble), _mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
    }
    transpose_words(words, lines);
  }
};

// One group of 32 columns of all rows. `group`: the blocks of the first row; `scales`: of this group.
template <class Codes, bool kHasMin>
void pack_group(const std::byte* group, int64_t stride, std::byte* lines, std::byte* scales) {
  for (int quad = 0; quad < kPanelRows; quad += 4) {
    const std::byte* const blocks[4] = {group + quad * stride, group + (quad + 1) * stride,
                                        group + (quad + 2) * stride, group + (quad + 3) * stride};
    Codes::pack(blocks, lines + quad * 4);
    for (int r = 0; r < 4; ++r) {
      std::memcpy(scales + (quad + r) * 2, blocks[r], 2);
      if constexpr (kHasMin) std::memcpy(scales + kScalesBytes + (quad + r) * 2, blocks[r] + 2, 2);
      _mm_prefetch(reinterpret_cast<const char*>(blocks[r] + kPrefetch), _MM_HINT_T0);
    }
  }
}

template <class Codes, bool kHasMin>
void pack_quantised(const SixteenRows& rows, std::byte* panel) {
  constexpr int kCodeBytes = 2 * Codes::kLines * kLine;
  constexpr int kSlabBytes = kCodeBytes + kScalesBytes * (kHasMin ? 2 : 1);
  const int64_t shard_groups = rows.cols / rows.k_shards / kGroup;
  const std::byte* group = rows.first;
  for (int shard = 0; shard < rows.k_shards; ++shard)
    for (int64_t g = 0; g < shard_groups; ++g, group += Codes::kBlock) {
      const int64_t half = g % 2;
      pack_group<Codes, kHasMin>(group, rows.stride, panel + half * kCodeBytes / 2,
                                 panel + kCodeBytes + half * kScalesBytes / 2);
      if (half == 1 || g + 1 == shard_groups) panel += kSlabBytes;
    }
}

// The codes of sixteen elements as the panel stores them, a byte each.
__m128i stored_codes(const PanelFormat& format, const int8_t* codes) {
  const __m128i values = load(reinterpret_cast<const std::byte*>(codes));
  if (!format.indexed) return _mm_add_epi8(values, _mm_set1_epi8(static_cast<char>(format.zero())));
  __m128i index = _mm_setzero_si128();  // the codes of the list that are not above, less one
  for (int i = 1; i < kIq2CodeCount; ++i)
    index = _mm_sub_epi8(index, _mm_cmpgt_epi8(values, _mm_set1_epi8(static_cast<char>(kIq2Codes[i] - 1))));
  return index;
}

// A group of 32 columns of four opened rows, starting at element `first` of their blocks.
void put_codes(const PanelFormat& format, const QuantBlock (&rows)[4], int64_t first, std::byte* lines) {
  __m128i low[4], high[4];
  for (int r = 0; r < 4; ++r) {
    low[r] = stored_codes(format, rows[r].codes.data() + first);
    high[r] = stored_codes(format, rows[r].codes.data() + first + 16);
  }
  if (format.code_bits == 8) {
    transpose_words(low, lines);
    transpose_words(high, lines + 4 * kLine);
    return;
  }
  for (int r = 0; r < 4; ++r) low[r] = nibble_words(low[r], high[r]);
  transpose_words(low, lines);
}

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(value));
}

// The scale and minimum `from` of an opened row become those of group `index` of a slab.
void put_scale(const PanelFormat& format, const QuantBlock& row, int64_t from, int index, int lane,
               std::byte* slab) {
  for (const bool min : {false, true}) {
    if (min && !format.has_min) return;
    std::byte* at = slab + format.scale_offset(index, min) + lane * format.scale_bytes();
    if (format.form == ScaleForm::kFloat) {
      put(at, min ? row.min[from] : row.scale[from]);
    } else {
      put(at, min ? row.min_multiplier[from] : row.multiplier[from]);
      put(slab + format.factor_offset(min) + lane * 2, min ? row.min_factor : row.factor);
    }
  }
}

// Formats of 256 elements a block: four rows are opened at a time.
void pack_opened(const SixteenRows& rows, std::byte* panel) {
  const PanelFormat format = panel_format(rows.type);
  const DTypeTraits traits = traits_of(rows.type);
  const int64_t shard_cols = rows.cols / rows.k_shards,
                shard_slabs = (shard_cols + kSlabCols - 1) / kSlabCols;
  const int parts = kGroup / format.group;  // scales of a group of 32
  QuantBlock opened[4];
  for (int64_t block = 0; block < rows.cols / traits.elements; ++block)
    for (int lane = 0; lane < kPanelRows; lane += 4) {
      for (int r = 0; r < 4; ++r)
        open_block(rows.type, rows.first + (lane + r) * rows.stride + block * traits.bytes, opened[r]);
      for (int64_t first = 0; first < traits.elements; first += kGroup) {
        const int64_t col = block * traits.elements + first, in_shard = col % shard_cols;
        const int64_t half = in_shard / kGroup % 2;
        std::byte* slab =
            panel + (col / shard_cols * shard_slabs + in_shard / kSlabCols) * format.slab_bytes();
        put_codes(format, opened, first, slab + half * format.code_bytes() / 2 + lane * 4);
        for (int s = 0; s < parts; ++s)
          for (int r = 0; r < 4; ++r)
            put_scale(format, opened[r], first / format.group + s, static_cast<int>(half * parts + s),
                      lane + r, slab);
      }
    }
}

// Words of a row: f32 elements, or two bf16 columns.
void pack_words(const SixteenRows& rows, int64_t words_of_row, std::byte* panel) {
  const int64_t whole = words_of_row / 4 * 4;
  for (int64_t k = 0; k < whole; k += 4)
    for (int quad = 0; quad < kPanelRows; quad += 4) {
      const std::byte* from = rows.first + quad * rows.stride + k * 4;
      const __m128i words[4] = {load(from), load(from + rows.stride), load(from + 2 * rows.stride),
                                load(from + 3 * rows.stride)};
      transpose_words(words, panel + k * kLine + quad * 4);
    }
  for (int64_t k = whole; k < words_of_row; ++k)
    for (int r = 0; r < kPanelRows; ++r)
      std::memcpy(panel + k * kLine + r * 4, rows.first + r * rows.stride + k * 4, 4);
}

// An odd last column fills half of its words; the other half is left as it is (zero).
void pack_bf16(const SixteenRows& rows, std::byte* panel) {
  pack_words(rows, rows.cols / 2, panel);
  if (rows.cols % 2 == 0) return;
  for (int r = 0; r < kPanelRows; ++r)
    std::memcpy(panel + rows.cols / 2 * kLine + r * 4, rows.first + r * rows.stride + (rows.cols - 1) * 2, 2);
}

// Eight columns of eight rows of 16-bit elements: row r, column k to line k, place r. A line is 32 bytes.
void transpose_halves(const std::byte* from, int64_t stride, std::byte* lines) {
  constexpr int kHalfLine = kPanelRows * 2;
  __m128i a[8], b[8];
  for (int r = 0; r < 8; ++r) a[r] = load(from + r * stride);
  for (int i = 0; i < 4; ++i) {  // rows 2i and 2i + 1: pairs of columns
    b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i)  // quads of rows, by columns 0-1, 2-3, 4-5, 6-7
    for (int half = 0; half < 2; ++half) {
      a[4 * i + 2 * half] = _mm_unpacklo_epi32(b[4 * i + half], b[4 * i + 2 + half]);
      a[4 * i + 2 * half + 1] = _mm_unpackhi_epi32(b[4 * i + half], b[4 * i + 2 + half]);
    }
  for (int pair = 0; pair < 4; ++pair) {
    store(lines + 2 * pair * kHalfLine, _mm_unpacklo_epi64(a[pair], a[pair + 4]));
    store(lines + (2 * pair + 1) * kHalfLine, _mm_unpackhi_epi64(a[pair], a[pair + 4]));
  }
}

void pack_f16(const SixteenRows& rows, std::byte* panel) {
  const int64_t whole = rows.cols / 8 * 8;
  for (int64_t k = 0; k < whole; k += 8)
    for (int half = 0; half < 2; ++half)
      transpose_halves(rows.first + 8 * half * rows.stride + k * 2, rows.stride,
                       panel + k * kPanelRows * 2 + half * 16);
  for (int64_t k = whole; k < rows.cols; ++k)
    for (int r = 0; r < kPanelRows; ++r)
      std::memcpy(panel + (k * kPanelRows + r) * 2, rows.first + r * rows.stride + k * 2, 2);
}

}  // namespace

void pack_sixteen(const SixteenRows& rows, std::byte* panel) {
  switch (rows.type) {
    case DType::kQ8_0:
      return pack_quantised<Codes8, false>(rows, panel);
    case DType::kQ4_0:
      return pack_quantised<Codes4<2>, false>(rows, panel);
    case DType::kQ4_1:
      return pack_quantised<Codes4<4>, true>(rows, panel);
    case DType::kF32:
      return pack_words(rows, rows.cols, panel);
    case DType::kF16:
      return pack_f16(rows, panel);
    case DType::kBF16:
      return pack_bf16(rows, panel);
    default:
      return pack_opened(rows, panel);
  }
}

}  // namespace baton::kernels::cpu
