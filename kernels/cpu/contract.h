#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"

// The numeric contract of the CPU backend, in executable form (docs/adr/0005-numerics.md gives the reasons).
// Every instruction set, tile shape and thread count must produce the bits these functions produce;
// tests/differential compares them. Written for reading, not for speed. Pure functions, any thread.
namespace baton::kernels::contract {

// --- Sums
// ---------------------------------------------------------------------------------------------------------
// The fixed binary tree: cut at the largest power of two below n, add the halves. Example n = 3: (p0 + p1) +
// p2.
float sum_tree(std::span<const float> parts);

// 16 virtual lanes: element i belongs to lane i mod 16. Lanes are added as l + (l+8), then 4, 2, 1 apart.
inline constexpr int kLanes = 16;
float sum_lanes(std::span<const float, kLanes> lanes);

// --- Activations
// -------------------------------------------------------------------------------------------------- 32
// consecutive inputs share a scale: scale = amax / 127, code = x * (127 / amax) rounded to nearest, ties to
// even. amax below 2^-100 gives scale 0 and codes 0; an infinity or NaN in the group gives scale NaN and
// codes 0.
inline constexpr int kGroup = 32;
struct QuantisedRow {
  std::vector<int8_t> codes;
  std::vector<float> scales;  // one per 32
};
QuantisedRow quantise(std::span<const float> x);  // size: a multiple of 32

// --- Linear layers
// ------------------------------------------------------------------------------------------------ One output
// of w.x before bias. `cols` is cut into k_shards equal segments; each is a chain from +0 over ascending
// groups: y = fma(float(integer dot of the group), d_w * d_x, y), then, in formats with a minimum,
// y = fma(min, d_x * float(sum of codes), y). Groups are the weight format's (16 or 32). Segments meet in
// sum_tree.
float linear_quantised(const WeightView& weight, int64_t row, const QuantisedRow& x, int k_shards);

// The same for F32, F16, BF16 weights: each segment is the chain y = fma(w, x, y) over ascending columns.
float linear_float(const WeightView& weight, int64_t row, std::span<const float> x, int k_shards);

// --- bf16 dots: a numerics class of its own
// sum + a . b of two bfloat16 each, as the dot instruction of AVX-512 computes it: first the odd (second)
// product is added by fma, then the even one, each step reading and giving denormals as zeros of their sign.
struct BrainPair {
  uint16_t even = 0;
  uint16_t odd = 0;
};
float brain_dot(float sum, BrainPair a, BrainPair b);

// bf16 weights: x is rounded to bfloat16 (nearest, ties to even); each segment is the chain of brain_dot over
// ascending pairs of columns from +0; a last column without a partner has zeros beside it.
float linear_brain(const WeightView& weight, int64_t row, std::span<const uint16_t> x, int k_shards);

// The weight of a score x <= 0 below the maximum: a shorter polynomial (relative error 5e-5), rounded to
// bfloat16.
uint16_t brain_weight(float x);

// --- Rows
// ---------------------------------------------------------------------------------------------------------
// Sum of squares by fma in 16 lanes; factor = 1 / sqrt(sum / n + eps); out = (x * factor) * weight. In place
// allowed.
void rms_norm(std::span<const float> x, std::span<const float> weight, float eps, std::span<float> out);

// The one exponential. Relative error below 2e-7 on [-87, 88]; arguments outside are clamped, below -87 gives
// 0.
float exponential(float x);
float silu(float x);  // x / (1 + exponential(-x))

// cos and sin of position * inv_freq in double arithmetic of our own (no libm), times magnitude, rounded to
// float.
struct Rotation {
  float cos;
  float sin;
};
Rotation rotation(int32_t position, double inv_freq, double magnitude);
// (a, b) -> (fma(a, cos, -(b * sin)), fma(b, cos, a * sin))
void rotate(std::span<float> head, std::span<const Rotation> rotations, bool interleaved);

// --- Attention
// ---------------------------------------------------------------------------------------------------- KV
// positions are cut into chunks of 256 at absolute positions. score = scale * chain over head_dim of fma(q,
// k, s); per chunk: m = max, p = exponential(score - m), l = sum of p in 16 lanes (lane = position mod 16),
// o = chain over positions of fma(p, v, o), then o + 0. Chunks merge in ascending order:
// m' = max(m, mc), a = exponential(m - m'), b = exponential(mc - m'), l = fma(l, a, lc * b), o = fma(o, a, oc
// * b). out = o * (1 / l).
inline constexpr int kChunk = 256;
// One token's key or value of a head as int8: one group over the whole head, rounded as in quantise().
struct QuantisedHead {
  std::vector<int8_t> codes;
  float scale = 0;
};
QuantisedHead quantise_head(std::span<const float> x);

struct AttendedKeys {
  std::span<const float> keys;    // [positions][head_dim], as stored (after rounding to the KV type)
  std::span<const float> values;  // [positions][head_dim]
  int first = 0;                  // positions [first, last] are seen
  int last = 0;
};
void attend(std::span<const float> q, const AttendedKeys& kv, float scale, std::span<float> out);

// The same in the class of bf16 dots, for keys and values that are bfloat16: q is rounded to bfloat16, scores
// are chains of brain_dot over pairs of dimensions, p = brain_weight, l sums the rounded weights, o is the
// chain of brain_dot over pairs of positions (2i, 2i + 1); positions that are not seen count as weight and
// value 0.
void attend_brain(std::span<const float> q, const AttendedKeys& kv, float scale, std::span<float> out);

// The same over int8 KV. q is quantised in groups of 32 along head_dim (a last group filled with zeros); a
// score is
// ((chain over groups of fma(float(integer dot), scale of the group, s)) * scale of the key) * scale; the
// weights are those of attend; o is the chain of fma(p * scale of the value, float(code), o).
struct AttendedCodes {
  std::span<const int8_t> keys;    // [positions][head_dim]
  std::span<const int8_t> values;  // [positions][head_dim]
  std::span<const float> key_scales;
  std::span<const float> value_scales;
  int first = 0;
  int last = 0;
};
void attend_codes(std::span<const float> q, const AttendedCodes& kv, float scale, std::span<float> out);

}  // namespace baton::kernels::contract
