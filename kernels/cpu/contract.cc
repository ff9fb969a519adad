#include "kernels/cpu/contract.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/contract_math.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/quant_block.h"
#include "kernels/weight_slice.h"

namespace baton::kernels::contract {
namespace {

// sin and cos on |r| <= pi/4 by their Taylor series (the first term left out is below 1e-18).
double sine_series(double r) {
  const double z = r * r;
  double sum = 0;
  for (int n = 17; n >= 3; n -= 2) sum = (1.0 + sum) * (-z / (n * (n - 1)));
  return r + r * sum;
}

double cosine_series(double r) {
  const double z = r * r;
  double sum = 0;
  for (int n = 18; n >= 2; n -= 2) sum = (1.0 + sum) * (-z / (n * (n - 1)));
  return 1.0 + sum;
}

// The opened row of a quantised weight.
struct OpenedRow {
  std::vector<int8_t> codes;
  std::vector<float> scale;  // per group of the format
  std::vector<float> min;
};

OpenedRow open_row(const WeightView& weight, int64_t row) {
  const DTypeTraits traits = traits_of(weight.type);
  const int groups = traits.elements / quant_format(weight.type).group;
  const std::byte* data = weight.data + row * row_stride(weight);
  OpenedRow out;
  QuantBlock block;
  for (int64_t first = 0; first < weight.cols; first += traits.elements, data += traits.bytes) {
    open_block(weight.type, data, block);
    out.codes.insert(out.codes.end(), block.codes.begin(), block.codes.begin() + traits.elements);
    out.scale.insert(out.scale.end(), block.scale.begin(), block.scale.begin() + groups);
    out.min.insert(out.min.end(), block.min.begin(), block.min.begin() + groups);
  }
  return out;
}

// Denormals as zeros of their sign.
float flushed(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}
float flushed(uint16_t brain) { return flushed(bfloat16_to_float(brain)); }

struct ChunkResult {
  float max = 0;
  float sum = 0;
  std::vector<float> out;
};

ChunkResult attend_brain_chunk(std::span<const float> q, const AttendedKeys& kv, float scale) {
  const size_t dim = q.size();
  std::array<float, kChunk> scores;
  ChunkResult result = {
      .max = -std::numeric_limits<float>::infinity(), .sum = 0, .out = std::vector<float>(dim)};
  for (int j = kv.first; j <= kv.last; ++j) {
    float score = 0;
    for (size_t d = 0; d < dim; d += 2)
      score =
          brain_dot(score, {float_to_bfloat16(q[d]), float_to_bfloat16(q[d + 1])},
                    {float_to_bfloat16(kv.keys[j * dim + d]), float_to_bfloat16(kv.keys[j * dim + d + 1])});
    scores[j % kChunk] = score * scale;
    result.max = std::max(result.max, scores[j % kChunk]);
  }
  std::array<float, kLanes> lanes = {};
  for (int even = kv.first / 2 * 2; even <= kv.last; even += 2) {
    const auto weight = [&](int j) {
      return j < kv.first || j > kv.last ? uint16_t{0} : brain_weight(scores[j % kChunk] - result.max);
    };
    const auto value = [&](int j, size_t d) {
      return j < kv.first || j > kv.last ? uint16_t{0} : float_to_bfloat16(kv.values[j * dim + d]);
    };
    const BrainPair p = {weight(even), weight(even + 1)};
    lanes[even % kLanes] += bfloat16_to_float(p.even);
    lanes[(even + 1) % kLanes] += bfloat16_to_float(p.odd);
    for (size_t d = 0; d < dim; ++d)
      result.out[d] = brain_dot(result.out[d], p, {value(even, d), value(even + 1, d)});
  }
  result.sum = sum_lanes(lanes);
  for (float& o : result.out) o += 0.0f;
  return result;
}

float code_score(const QuantisedRow& q, std::span<const int8_t> key) {
  float score = 0;
  for (size_t first = 0; first < key.size(); first += kGroup) {
    int32_t dot = 0;
    for (size_t d = first; d < std::min(key.size(), first + kGroup); ++d) dot += int32_t{q.codes[d]} * key[d];
    score = std::fma(static_cast<float>(dot), q.scales[first / kGroup], score);
  }
  return score;
}

ChunkResult attend_codes_chunk(std::span<const float> q, const AttendedCodes& kv, float scale) {
  const size_t dim = q.size();
  std::vector<float> filled(q.begin(), q.end());
  filled.resize((dim + kGroup - 1) / kGroup * kGroup);
  const QuantisedRow codes = quantise(filled);
  std::array<float, kChunk> scores;
  ChunkResult result = {
      .max = -std::numeric_limits<float>::infinity(), .sum = 0, .out = std::vector<float>(dim)};
  for (int j = kv.first; j <= kv.last; ++j) {
    scores[j % kChunk] = (code_score(codes, kv.keys.subspan(j * dim, dim)) * kv.key_scales[j]) * scale;
    result.max = std::max(result.max, scores[j % kChunk]);
  }
  std::array<float, kLanes> lanes = {};
  for (int j = kv.first; j <= kv.last; ++j) {
    const float p = exponential(scores[j % kChunk] - result.max);
    lanes[j % kLanes] += p;
    const float weight = p * kv.value_scales[j];
    for (size_t d = 0; d < dim; ++d)
      result.out[d] = std::fma(weight, static_cast<float>(kv.values[j * dim + d]), result.out[d]);
  }
  result.sum = sum_lanes(lanes);
  for (float& o : result.out) o += 0.0f;
  return result;
}

ChunkResult attend_chunk(std::span<const float> q, const AttendedKeys& kv, float scale) {
  const size_t dim = q.size();
  std::vector<float> weights;
  for (int j = kv.first; j <= kv.last; ++j) {
    float score = 0;
    for (size_t d = 0; d < dim; ++d) score = std::fma(q[d], kv.keys[j * dim + d], score);
    weights.push_back(score * scale);
  }
  ChunkResult result;
  result.max = *std::max_element(weights.begin(), weights.end());
  result.out.assign(dim, 0.0f);
  std::array<float, kLanes> lanes = {};
  for (int j = kv.first; j <= kv.last; ++j) {
    const float p = exponential(weights[j - kv.first] - result.max);
    lanes[j % kLanes] += p;
    for (size_t d = 0; d < dim; ++d) result.out[d] = std::fma(p, kv.values[j * dim + d], result.out[d]);
  }
  result.sum = sum_lanes(lanes);
  for (float& o : result.out) o += 0.0f;  // -0 becomes +0, so that skipped and zero-weighted positions agree
  return result;
}

void merge_chunk(ChunkResult& total, const ChunkResult& next) {
  const float max = std::max(total.max, next.max);
  const float a = exponential(total.max - max);
  const float b = exponential(next.max - max);
  total.max = max;
  total.sum = std::fma(total.sum, a, next.sum * b);
  for (size_t d = 0; d < total.out.size(); ++d) total.out[d] = std::fma(total.out[d], a, next.out[d] * b);
}

}  // namespace

float sum_tree(std::span<const float> parts) {
  BATON_CHECK(!parts.empty());
  if (parts.size() == 1) return parts[0];
  const size_t split = std::bit_floor(parts.size() - 1);
  return sum_tree(parts.first(split)) + sum_tree(parts.subspan(split));
}

float sum_lanes(std::span<const float, kLanes> lanes) {
  std::array<float, kLanes> sum;
  std::ranges::copy(lanes, sum.begin());
  for (int apart = 8; apart >= 1; apart /= 2)
    for (int l = 0; l < apart; ++l) sum[l] += sum[l + apart];
  return sum[0];
}

QuantisedHead quantise_head(std::span<const float> x) {
  uint32_t magnitude = 0;  // as integers, so that a NaN is the largest
  for (float v : x) magnitude = std::max(magnitude, std::bit_cast<uint32_t>(v) & 0x7fffffffu);
  const float amax = std::bit_cast<float>(magnitude);
  QuantisedHead out = {.codes = std::vector<int8_t>(x.size()), .scale = amax / 127.0f};
  if (magnitude >= 0x7f800000u || amax < kSmallestAmax) {
    out.scale = magnitude >= 0x7f800000u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    return out;
  }
  const float inverse = 127.0f / amax;
  for (size_t i = 0; i < x.size(); ++i) out.codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  return out;
}

QuantisedRow quantise(std::span<const float> x) {
  BATON_CHECK(x.size() % kGroup == 0);
  QuantisedRow out;
  for (size_t first = 0; first < x.size(); first += kGroup) {
    const QuantisedHead group = quantise_head(x.subspan(first, kGroup));
    out.scales.push_back(group.scale);
    out.codes.insert(out.codes.end(), group.codes.begin(), group.codes.end());
  }
  return out;
}

float linear_quantised(const WeightView& weight, int64_t row, const QuantisedRow& x, int k_shards) {
  const QuantFormat format = quant_format(weight.type);
  const OpenedRow w = open_row(weight, row);
  const int64_t segment = weight.cols / k_shards;
  std::vector<float> parts;
  for (int64_t first = 0; first < weight.cols; first += segment) {
    float y = 0;
    for (int64_t k = first; k < first + segment; k += format.group) {
      const int64_t g = k / format.group;
      int32_t dot = 0, sum = 0;
      for (int64_t i = k; i < k + format.group; ++i) {
        dot += int32_t{w.codes[i]} * x.codes[i];
        sum += x.codes[i];
      }
      const float scale = x.scales[k / kGroup];
      y = std::fma(static_cast<float>(dot), w.scale[g] * scale, y);
      if (format.has_min) y = std::fma(w.min[g], scale * static_cast<float>(sum), y);
    }
    parts.push_back(y);
  }
  return sum_tree(parts);
}

float linear_float(const WeightView& weight, int64_t row, std::span<const float> x, int k_shards) {
  std::vector<float> w(weight.cols);
  dequantize_row(weight.type, weight.data + row * row_stride(weight), w);
  const int64_t segment = weight.cols / k_shards;
  std::vector<float> parts;
  for (int64_t first = 0; first < weight.cols; first += segment) {
    float y = 0;
    for (int64_t k = first; k < first + segment; ++k) y = std::fma(w[k], x[k], y);
    parts.push_back(y);
  }
  return sum_tree(parts);
}

float brain_dot(float sum, BrainPair a, BrainPair b) {
  sum = flushed(std::fma(flushed(a.odd), flushed(b.odd), flushed(sum)));
  return flushed(std::fma(flushed(a.even), flushed(b.even), sum));
}

float linear_brain(const WeightView& weight, int64_t row, std::span<const uint16_t> x, int k_shards) {
  const auto w = [&](int64_t k) {
    uint16_t bits;
    std::memcpy(&bits, weight.data + row * row_stride(weight) + k * sizeof bits, sizeof bits);
    return bits;
  };
  const int64_t segment = weight.cols / k_shards;
  std::vector<float> parts;
  for (int64_t first = 0; first < weight.cols; first += segment) {
    float y = 0;
    for (int64_t k = first; k < first + segment; k += 2) {
      const bool whole = k + 1 < first + segment;
      y = brain_dot(y, {w(k), whole ? w(k + 1) : uint16_t{0}}, {x[k], whole ? x[k + 1] : uint16_t{0}});
    }
    parts.push_back(y);
  }
  return sum_tree(parts);
}

void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out) {
  std::array<float, kLanes> lanes = {};
  for (size_t i = 0; i < x.size(); ++i) lanes[i % kLanes] = std::fma(x[i], x[i], lanes[i % kLanes]);
  const float factor = 1.0f / std::sqrt(sum_lanes(lanes) / static_cast<float>(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) out[i] = (x[i] * factor) * weight[i];
}

float exponential(float x) {
  const float low = kExpMin > x ? kExpMin : x;  // a NaN passes through both
  const float clamped = kExpMax < low ? kExpMax : low;
  const float shifted = std::fma(clamped, kLog2E, kRoundMagic);
  const int32_t n = static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - uint32_t{kRoundMagicBits});
  const float whole = shifted - kRoundMagic;
  const float r = std::fma(-whole, kLn2Low, std::fma(-whole, kLn2High, clamped));
  float p = kExpCoefficients[0];
  for (int i = 1; i < 8; ++i) p = std::fma(p, r, kExpCoefficients[i]);
  const float power = std::bit_cast<float>((static_cast<uint32_t>(n) + 127u) << 23);
  return x < kExpMin ? 0.0f : p * power;
}

uint16_t brain_weight(float x) {
  const float clamped = kExpMin > x ? kExpMin : x;
  const float shifted = std::fma(clamped, kLog2E, kRoundMagic);
  const int32_t n = static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - uint32_t{kRoundMagicBits});
  const float r = std::fma(-(shifted - kRoundMagic), kLn2, clamped);
  float p = kExpCoefficients[3];
  for (int i = 4; i < 8; ++i) p = std::fma(p, r, kExpCoefficients[i]);
  const float power = std::bit_cast<float>((static_cast<uint32_t>(n) + 127u) << 23);
  return x < kExpMin ? uint16_t{0} : float_to_bfloat16(p * power);
}

float silu(float x) { return x / (1.0f + exponential(-x)); }

Rotation rotation(int32_t position, double inv_freq, double magnitude) {
  // pi/2 in three parts; the first two have 33 bits, so that k times them is exact for angles below 1.6
  // million.
  constexpr double kPart1 = 0x1.921fb544p+0, kPart2 = 0x1.0b4611a6p-34, kPart3 = 0x1.3198a2e037073p-69;
  const double angle = position * inv_freq;
  const double k = std::nearbyint(angle * 0x1.45f306dc9c883p-1);
  const double r = ((angle - k * kPart1) - k * kPart2) - k * kPart3;
  const double s = sine_series(r), c = cosine_series(r);
  const auto quadrant = static_cast<int64_t>(k) & 3;
  const double cos = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
  const double sin = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  return {static_cast<float>(cos * magnitude), static_cast<float>(sin * magnitude)};
}

void rotate(std::span<float> head, std::span<const Rotation> rotations, bool interleaved) {
  const size_t pairs = rotations.size();
  for (size_t i = 0; i < pairs; ++i) {
    float& a = interleaved ? head[2 * i] : head[i];
    float& b = interleaved ? head[2 * i + 1] : head[i + pairs];
    const auto [cos, sin] = rotations[i];
    const float a0 = a, b0 = b;
    a = std::fma(a0, cos, -(b0 * sin));
    b = std::fma(b0, cos, a0 * sin);
  }
}

namespace {

template <class Keys>
void attend_chunks(ChunkResult (*attend_one)(std::span<const float>, const Keys&, float),
                   std::span<const float> q, Keys kv, float scale, std::span<float> out) {
  ChunkResult total;
  const int begin = kv.first, end = kv.last;
  for (kv.first = begin; kv.first <= end; kv.first = kv.last + 1) {
    kv.last = std::min(end, kv.first / kChunk * kChunk + kChunk - 1);
    const ChunkResult chunk = attend_one(q, kv, scale);
    if (kv.first == begin) {
      total = chunk;
    } else {
      merge_chunk(total, chunk);
    }
  }
  const float inverse = 1.0f / total.sum;
  for (size_t d = 0; d < out.size(); ++d) out[d] = total.out[d] * inverse;
}

}  // namespace

void attend(std::span<const float> q, const AttendedKeys& kv, float scale, std::span<float> out) {
  attend_chunks(attend_chunk, q, kv, scale, out);
}

void attend_brain(std::span<const float> q, const AttendedKeys& kv, float scale, std::span<float> out) {
  attend_chunks(attend_brain_chunk, q, kv, scale, out);
}

void attend_codes(std::span<const float> q, const AttendedCodes& kv, float scale, std::span<float> out) {
  attend_chunks(attend_codes_chunk, q, kv, scale, out);
}

}  // namespace baton::kernels::contract
