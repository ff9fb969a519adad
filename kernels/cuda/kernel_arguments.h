#pragma once

#include <cstdint>

#include "kernels/cuda/step_tables.h"

// What each kernel is given: pointers to device memory, shapes in elements, ld = distance of rows in
// elements. Plain C++20, for both compilers.
namespace baton::kernels::cuda {

// out[row][width] float = table[token][ld] bf16
struct EmbedArgs {
  const uint16_t* table;
  int width;
  int ld;
  float* out;
  const DrawnToken* drawn;  // by the step before, for rows that it feeds
};

struct NormArgs {
  const float* x;       // [..][width]
  const float* weight;  // [width]
  float eps;
  int width;
  const int32_t* index;  // row i reads x row index[i]; null: row i
  const int32_t* count;  // rows
  uint16_t* out;         // [rows][ld] bf16, zeros beyond width
  int ld;
};

struct RopeArgs {
  float* qkv;              // [rows][(heads + 2 kv_heads) * head_dim]; q is rotated in place
  const float* rotations;  // [positions][pairs]{cos, sin}
  const float* q_norm;     // [head_dim] or null
  const float* k_norm;
  float eps;
  int heads;
  int pairs;
  bool interleaved;
  LayerKv kv;
};

// Gate and up stand in strips of 8 and 8 (linear_kernels.cuh).
struct SiluArgs {
  const float* h;  // [count][ldh]
  int width;       // of the result
  int64_t ldh;
  const int32_t* count;
  uint16_t* out;  // [count][ldo] bf16
  int64_t ldo;
};

// residual[row][width] += y[row][width] + bias[width]
struct AddRowsArgs {
  const float* y;
  const float* bias;  // or null
  float* residual;
  int width;
};

// out[rows][parts * width] = gathered[parts][rows][width], side by side; `bf16`: of each row's first half, as
// attention and gate_up write rows.
struct JoinRowsArgs {
  const float* gathered;
  float* out;
  int parts;
  int64_t rows;
  int width;
  bool bf16;
};

enum class LinearOut : int32_t {
  kStore,  // out[m][n] = y
  kAdd,    // out[m][n] += y
  kSilu,   // out[m][i] = silu(gate i) * up i, bf16; interleaved weights only
};

struct LinearArgs {
  const uint16_t* weights;  // [strips * 16][ld] bf16, zeros where there is no weight
  int rows;                 // N
  int strips;               // of 16 rows
  int cols;                 // K, a multiple of 4
  int ld;                   // cols filled up to 64
  bool interleaved;         // strips of 16 rows are 8 of the first half and 8 of the second (gate, up)
  const uint16_t* x;        // [count][ldx] bf16
  int64_t ldx;
  const int32_t* count;  // M
  const float* bias;     // [rows], or null
  LinearOut mode;
  void* out;  // float [count][ldo], or bf16 [count][ldo] for kSilu
  int64_t ldo;
  // e4m3 operands (hopper_linear.cuh): weights and x are pairs of them, cols and ld count pairs.
  const float* weight_scales;  // [128 columns][strip][rows 0-7, 8-15]; null: bf16
  const float* x_scales;       // [count]
};

// Rows in e4m3, each with a scale of its own: value = byte * scale.
struct Fp8Rows {
  unsigned char* rows;  // [..][ld], zeros beyond the width
  int ld;               // a multiple of 128
  float* scales;
};

struct QuantiseArgs {
  const uint16_t* x;  // [count][ldx] bf16
  int64_t ldx;
  int width;
  const int32_t* count;
  Fp8Rows out;
};

// Columns of a chain of products in hopper_linear.cuh: numbers of bf16, or pairs of e4m3.
inline constexpr int kHopperSegment = 1024;

// How hopper_linear.cuh shares a product out. partials [segment][block][row block * tokens] and arrived
// [block] (zeros) are used when the segments of a row block are split over blocks.
struct HopperGrid {
  int row_blocks;
  int token_tiles;
  int segments_each;  // of kHopperSegment columns, to a block
  float* partials;
  int32_t* arrived;
};

struct DrawArgs {
  float* logits;  // [logit rows][vocab]
  int vocab;
  DrawnToken* out;      // [logit rows]
  DrawReport* reports;  // [logit rows]
};

struct AttentionArgs {
  const float* qkv;  // [rows][(heads + 2 kv_heads) * head_dim], q rotated
  uint16_t* out;     // [rows][2 * heads * head_dim]: bf16 in the first half of each row of floats
  int heads;
  int share;   // heads / kv_heads
  int window;  // 0 = all
  float scale;
  LayerKv kv;
  float* partials;  // [slot][16][head_dim + 2]: maximum, sum, values
};

}  // namespace baton::kernels::cuda
