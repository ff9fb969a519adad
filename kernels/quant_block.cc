#include "kernels/quant_block.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/float16.h"

namespace baton::kernels {
namespace {

// The 256 patterns of IQ2_XXS: eight 2-bit indices into {8, 25, 43}, element 0 lowest. Part of the format.
constexpr std::array<uint16_t, 256> kIq2Grid = {
    0x0000, 0x0002, 0x0005, 0x0008, 0x000a, 0x0011, 0x0014, 0x0020, 0x0022, 0x0028, 0x002a, 0x0041, 0x0044,
    0x0050, 0x0058, 0x0061, 0x0064, 0x0080, 0x0082, 0x008a, 0x00a2, 0x0101, 0x0104, 0x0110, 0x0115, 0x0140,
    0x0184, 0x0198, 0x0200, 0x0202, 0x0222, 0x0282, 0x0401, 0x0404, 0x0410, 0x0421, 0x0424, 0x0440, 0x0442,
    0x0448, 0x0460, 0x0481, 0x0484, 0x0490, 0x04a4, 0x0500, 0x0502, 0x0508, 0x0520, 0x0546, 0x0569, 0x0580,
    0x0591, 0x0609, 0x0610, 0x0640, 0x0684, 0x06a4, 0x0800, 0x0805, 0x0808, 0x0814, 0x0828, 0x0841, 0x0844,
    0x0850, 0x0852, 0x0888, 0x0904, 0x0940, 0x0a02, 0x0a14, 0x1001, 0x1004, 0x1010, 0x1021, 0x1040, 0x1060,
    0x1084, 0x1090, 0x1095, 0x1100, 0x1108, 0x1120, 0x1150, 0x115a, 0x1180, 0x1224, 0x1245, 0x1400, 0x1408,
    0x1420, 0x1425, 0x1449, 0x1480, 0x1518, 0x1562, 0x1600, 0x1616, 0x1801, 0x1804, 0x1810, 0x1840, 0x1881,
    0x1900, 0x1905, 0x19a0, 0x1a51, 0x2000, 0x2002, 0x200a, 0x2044, 0x2061, 0x2080, 0x2082, 0x2129, 0x2148,
    0x2200, 0x2202, 0x2401, 0x2404, 0x2410, 0x2440, 0x2456, 0x2500, 0x2541, 0x2564, 0x2690, 0x2808, 0x2820,
    0x2894, 0x2a44, 0x4001, 0x4004, 0x4010, 0x4018, 0x4021, 0x4024, 0x4040, 0x4048, 0x4056, 0x4060, 0x4081,
    0x4084, 0x4090, 0x4100, 0x4120, 0x4161, 0x4180, 0x4185, 0x4201, 0x4210, 0x4248, 0x4256, 0x4268, 0x4400,
    0x4408, 0x4420, 0x4480, 0x4499, 0x4512, 0x4524, 0x4600, 0x4801, 0x4804, 0x4810, 0x4840, 0x4845, 0x4900,
    0x4958, 0x4961, 0x4982, 0x4a45, 0x4a90, 0x5000, 0x5008, 0x5011, 0x5019, 0x5020, 0x5080, 0x5088, 0x5104,
    0x5142, 0x51a4, 0x5291, 0x5490, 0x5492, 0x550a, 0x5601, 0x5654, 0x5800, 0x5811, 0x5819, 0x5864, 0x5940,
    0x5a08, 0x6004, 0x6010, 0x6040, 0x6068, 0x6100, 0x6155, 0x6218, 0x6260, 0x6400, 0x6405, 0x6510, 0x6512,
    0x6584, 0x6842, 0x8000, 0x8002, 0x800a, 0x8041, 0x8082, 0x8104, 0x8118, 0x8140, 0x8211, 0x8401, 0x8404,
    0x8410, 0x8415, 0x8440, 0x8460, 0x8500, 0x8546, 0x8594, 0x8609, 0x8640, 0x8660, 0x8802, 0x8904, 0x8a11,
    0x9004, 0x9010, 0x9024, 0x9040, 0x90a1, 0x9116, 0x9180, 0x9245, 0x9400, 0x9422, 0x9444, 0x9551, 0x9881,
    0x9920, 0xa002, 0xa050, 0xa085, 0xa109, 0xa200, 0xa418, 0xa850, 0xa904,
};
constexpr std::array<uint8_t, 4> kIq2Magnitude = {8, 25, 43, 0};

// The eight magnitudes of each pattern, and the eight signs (0 or 0xff) of each 7-bit pattern whose eighth
// makes the count of minuses even: byte i is element i.
constexpr std::array<uint64_t, 256> iq2_magnitudes() {
  std::array<uint64_t, 256> out{};
  for (size_t i = 0; i < out.size(); ++i)
    for (int e = 0; e < 8; ++e) out[i] |= uint64_t{kIq2Magnitude[(kIq2Grid[i] >> (2 * e)) & 3]} << (8 * e);
  return out;
}
constexpr std::array<uint64_t, 128> iq2_signs() {
  std::array<uint64_t, 128> out{};
  for (unsigned i = 0; i < out.size(); ++i) {
    const unsigned signs = i | (static_cast<unsigned>(std::popcount(i) & 1) << 7);
    for (int e = 0; e < 8; ++e)
      if ((signs >> e) & 1) out[i] |= uint64_t{0xff} << (8 * e);
  }
  return out;
}
constexpr std::array<uint64_t, 256> kIq2Magnitudes = iq2_magnitudes();
constexpr std::array<uint64_t, 128> kIq2Signs = iq2_signs();

uint16_t half_bits_at(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return bits;
}

float half_at(const uint8_t* p) { return half_to_float(half_bits_at(p)); }

// The factors of a K format and, once its multipliers stand in `out`, the float scales of `groups` groups.
void open_factors(const uint8_t* d, const uint8_t* dmin, int groups, QuantBlock& out) {
  out.factor = half_bits_at(d);
  out.min_factor = dmin == nullptr ? 0 : half_bits_at(dmin) ^ 0x8000u;
  const float scale = half_to_float(out.factor), min = half_to_float(out.min_factor);
  for (int g = 0; g < groups; ++g) {
    out.scale[g] = scale * static_cast<float>(out.multiplier[g]);
    if (dmin != nullptr) out.min[g] = min * static_cast<float>(out.min_multiplier[g]);
  }
}

void open_q8_0(const uint8_t* b, QuantBlock& out) {
  out.scale[0] = half_at(b);
  std::memcpy(out.codes.data(), b + 2, 32);
}

// 16 bytes: low nibbles are elements 0..15, high nibbles 16..31.
void open_nibbles(const uint8_t* packed, int zero, int8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<int8_t>((packed[i] & 15) - zero);
    codes[i + 16] = static_cast<int8_t>((packed[i] >> 4) - zero);
  }
}

void open_q4_0(const uint8_t* b, QuantBlock& out) {
  out.scale[0] = half_at(b);
  open_nibbles(b + 2, 8, out.codes.data());
}

void open_q4_1(const uint8_t* b, QuantBlock& out) {
  out.scale[0] = half_at(b);
  out.min[0] = half_at(b + 2);
  open_nibbles(b + 4, 0, out.codes.data());
}

// scales[16] (low nibble scale, high nibble min), qs[64], d, dmin.
void open_q2_k(const uint8_t* b, QuantBlock& out) {
  for (int g = 0; g < 16; ++g) {
    out.multiplier[g] = static_cast<int8_t>(b[g] & 15);
    out.min_multiplier[g] = static_cast<int8_t>(b[g] >> 4);
  }
  open_factors(b + 80, b + 82, 16, out);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* packed = b + 16 + 32 * half;
    int8_t* codes = out.codes.data() + 128 * half;
    for (int l = 0; l < 32; ++l) codes[l] = static_cast<int8_t>(packed[l] & 3);
    for (int l = 0; l < 32; ++l) codes[32 + l] = static_cast<int8_t>((packed[l] >> 2) & 3);
    for (int l = 0; l < 32; ++l) codes[64 + l] = static_cast<int8_t>((packed[l] >> 4) & 3);
    for (int l = 0; l < 32; ++l) codes[96 + l] = static_cast<int8_t>(packed[l] >> 6);
  }
}

// The eight 6-bit (scale, min) pairs of Q4_K and Q5_K in 12 bytes.
void open_k_scales(const uint8_t* b, QuantBlock& out) {
  const uint8_t* s = b + 4;
  for (int g = 0; g < 8; ++g) {
    const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | ((s[g - 4] >> 6) << 4);
    const int min = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | ((s[g] >> 6) << 4);
    out.multiplier[g] = static_cast<int8_t>(scale);
    out.min_multiplier[g] = static_cast<int8_t>(min);
  }
  open_factors(b, b + 2, 8, out);
}

// qs[128]: 32 bytes hold two groups of 32, the first in their low nibbles.
void open_k_nibbles(const uint8_t* packed, int8_t* codes) {
  for (int pair = 0; pair < 4; ++pair, packed += 32, codes += 64)
    for (int l = 0; l < 32; ++l) {
      codes[l] = static_cast<int8_t>(packed[l] & 15);
      codes[32 + l] = static_cast<int8_t>(packed[l] >> 4);
    }
}

void open_q4_k(const uint8_t* b, QuantBlock& out) {
  open_k_scales(b, out);
  open_k_nibbles(b + 16, out.codes.data());
}

// ... qh[32] (bit g of byte l = fifth bit of element 32 g + l), qs[128].
void open_q5_k(const uint8_t* b, QuantBlock& out) {
  open_k_scales(b, out);
  open_k_nibbles(b + 48, out.codes.data());
  for (int g = 0; g < 8; ++g)
    for (int l = 0; l < 32; ++l) {
      const int high = (b[16 + l] >> g) & 1;
      out.codes[32 * g + l] = static_cast<int8_t>(out.codes[32 * g + l] | (high << 4));
    }
}

// Elements of a nibble and two bits; the shifts are constants, so that loops of it become vectors.
template <int kLowShift, int kHighShift>
void open_six_bits(const uint8_t* lows, const uint8_t* highs, int8_t* codes) {
  for (int l = 0; l < 32; ++l) {
    const int low = (lows[l] >> kLowShift) & 15, high = (highs[l] >> kHighShift) & 3;
    codes[l] = static_cast<int8_t>((low | (high << 4)) - 32);
  }
}

// ql[128], qh[64], int8 scales[16], d. Half h holds elements 128 h + 32 r + l: low bits in ql[64 h + 32 (r %
// 2) + l], nibble r / 2; high bits in qh[32 h + l], shift 2 r.
void open_q6_k(const uint8_t* b, QuantBlock& out) {
  std::memcpy(out.multiplier.data(), b + 192, 16);
  open_factors(b + 208, nullptr, 16, out);
  for (int h = 0; h < 2; ++h) {
    const uint8_t *lows = b + 64 * h, *highs = b + 128 + 32 * h;
    int8_t* codes = out.codes.data() + 128 * h;
    open_six_bits<0, 0>(lows, highs, codes);
    open_six_bits<0, 2>(lows + 32, highs, codes + 32);
    open_six_bits<4, 4>(lows, highs, codes + 64);
    open_six_bits<4, 6>(lows + 32, highs, codes + 96);
  }
}

// d, then per group of 32 two words: four grid indices; four 7-bit sign patterns (the eighth sign makes the
// count of minuses even) and a 4-bit scale.
void open_iq2_xxs(const uint8_t* b, QuantBlock& out) {
  const float d = half_at(b);
  for (int g = 0; g < 8; ++g) {
    const uint8_t* index = b + 2 + 8 * g;
    uint32_t word;
    std::memcpy(&word, index + 4, 4);
    out.scale[g] = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    for (int eight = 0; eight < 4; ++eight) {
      // Minus m is ~m + 1; magnitudes are at least 8, so no byte carries into the next.
      const uint64_t minus = kIq2Signs[(word >> (7 * eight)) & 127u];
      const uint64_t codes = (kIq2Magnitudes[index[eight]] ^ minus) + (minus & 0x0101010101010101u);
      std::memcpy(out.codes.data() + 32 * g + 8 * eight, &codes, 8);
    }
  }
}

}  // namespace

QuantFormat quant_format(DType type) {
  switch (type) {
    case DType::kQ8_0:
      return {.group = 32, .has_min = false, .code_min = -128, .code_max = 127};
    case DType::kQ4_0:
      return {.group = 32, .has_min = false, .code_min = -8, .code_max = 7};
    case DType::kQ4_1:
      return {.group = 32, .has_min = true, .code_min = 0, .code_max = 15};
    case DType::kQ2_K:
      return {.group = 16, .has_min = true, .code_min = 0, .code_max = 3};
    case DType::kQ4_K:
      return {.group = 32, .has_min = true, .code_min = 0, .code_max = 15};
    case DType::kQ5_K:
      return {.group = 32, .has_min = true, .code_min = 0, .code_max = 31};
    case DType::kQ6_K:
      return {.group = 16, .has_min = false, .code_min = -32, .code_max = 31};
    case DType::kIQ2_XXS:
      return {.group = 32, .has_min = false, .code_min = -43, .code_max = 43};
    default:
      break;
  }
  check_failed(__FILE__, __LINE__, "quant_format", "not a quantised type");
}

void open_block(DType type, const std::byte* data, QuantBlock& out) {
  const auto* b = reinterpret_cast<const uint8_t*>(data);
  out.min.fill(0);
  switch (type) {
    case DType::kQ8_0:
      return open_q8_0(b, out);
    case DType::kQ4_0:
      return open_q4_0(b, out);
    case DType::kQ4_1:
      return open_q4_1(b, out);
    case DType::kQ2_K:
      return open_q2_k(b, out);
    case DType::kQ4_K:
      return open_q4_k(b, out);
    case DType::kQ5_K:
      return open_q5_k(b, out);
    case DType::kQ6_K:
      return open_q6_k(b, out);
    case DType::kIQ2_XXS:
      return open_iq2_xxs(b, out);
    default:
      break;
  }
  check_failed(__FILE__, __LINE__, "open_block", "not a quantised type");
}

}  // namespace baton::kernels
