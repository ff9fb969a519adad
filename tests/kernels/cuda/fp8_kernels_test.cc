// e4m3 numbers, rows and products, emulated: bit for bit the scalar arithmetic below, whichever tile computes
// a row and however many rows there are.
#include <cmath>
#include <cstring>

#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/hopper_launches.h"
#include "kernels/float8.h"
#include "kernels/weight_slice.h"
#include "tests/kernels/cuda/kernel_fixture.h"

namespace baton::kernels::cuda {
namespace {

TEST(E4m3, EveryNumberAndTheMiddlesBetweenThem) {
  for (int bits = 0; bits < 127; ++bits) {
    const auto low = static_cast<uint8_t>(bits), high = static_cast<uint8_t>(bits + 1);
    const float value = e4m3_to_float(low), next = e4m3_to_float(high);
    for (const uint8_t sign : {0x00, 0x80}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      EXPECT_EQ(float_to_e4m3(s * value), low | sign);
      EXPECT_EQ(std::signbit(e4m3_to_float(low | sign)), sign != 0);
      if (bits == 126) break;
      ASSERT_LT(value, next);
      const float middle = (value + next) / 2;
      EXPECT_EQ(float_to_e4m3(s * middle), (bits % 2 == 0 ? low : high) | sign) << "to even";
      EXPECT_EQ(float_to_e4m3(s * std::nextafter(middle, 0.0f)), low | sign);
      EXPECT_EQ(float_to_e4m3(s * std::nextafter(middle, 1e9f)), high | sign);
    }
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(float_to_e4m3(1e30f), 0x7e);
  EXPECT_EQ(float_to_e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(float_to_e4m3(NAN), 0x7f);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7f)) && std::isnan(e4m3_to_float(0xff)));
}

// ---- the arithmetic ----

struct Fp8Row {
  std::vector<uint8_t> bytes;
  float scale;
};
Fp8Row quantised(std::span<const float> values) {
  float most = 0x1p-64f;
  for (const float v : values) most = std::max(most, std::abs(v));
  Fp8Row row = {{}, most / 448.0f};
  for (const float v : values) row.bytes.push_back(float_to_e4m3(v * (448.0f / most)));
  return row;
}

// A layer as the device holds it, and element by element.
struct Fp8Layer {
  LinearSpec spec;
  PackedShape shape;
  std::vector<std::vector<uint16_t>> stored;
  std::vector<std::byte> packed;

  uint8_t byte(int row, int col) const {
    return static_cast<uint8_t>(packed[static_cast<size_t>(packed_row(shape, row)) * shape.ld + col]);
  }
  float scale(int row, int block) const {
    const auto* scales = reinterpret_cast<const float*>(packed.data() + shape.matrix_bytes());
    const int at = packed_row(shape, row);
    return scales[(static_cast<size_t>(block) * shape.strips + at / 16) * 2 + at % 16 / 8];
  }
  // One output of one row, as numerics fp8 defines it.
  float product(const Fp8Row& x, int row) const {
    float total = 0;
    for (int segment = 0; segment < shape.cols; segment += 2048) {
      float sum = 0;
      for (int block = segment; block < std::min(segment + 2048, shape.cols); block += 128) {
        float chain = 0;
        for (int k = block; k < std::min(block + 128, shape.cols); ++k)
          chain += e4m3_to_float(byte(row, k)) * e4m3_to_float(x.bytes[k]);
        sum = std::fma(chain, scale(row, block / 128), sum);
      }
      total += sum;
    }
    const float y = total * x.scale;
    return spec.bias.empty() ? y : y + spec.bias[row];
  }
};

Fp8Layer make_layer(const std::vector<int>& parts, int cols, bool bias, Random& random) {
  Fp8Layer layer;
  int rows = 0;
  for (const int count : parts) {
    layer.stored.push_back(to_brain(random.floats(static_cast<size_t>(count) * cols, 0.2f)));
    layer.spec.parts.push_back(
        {DType::kBF16, reinterpret_cast<const std::byte*>(layer.stored.back().data()), count, cols});
    rows += count;
  }
  if (bias) layer.spec.bias = random.floats(rows);
  layer.shape = packed_shape(layer.spec, PackedType::kFp8);
  layer.packed = *pack_fp8(layer.spec, layer.shape);
  return layer;
}

struct Tile {
  HopperTileShape shape;
  int splits;
};

// x: [count + a tile][ld]; rows beyond `count` are NaN and must not matter.
std::vector<float> run(const Fp8Layer& layer, const std::vector<Fp8Row>& rows, const Tile& tile) {
  const auto parts = [](int whole, int each) { return (whole + each - 1) / each; };
  const int32_t count = static_cast<int32_t>(rows.size());
  const PackedShape& s = layer.shape;
  std::vector<uint8_t> x(static_cast<size_t>(count + tile.shape.tokens) * s.ld, 0x7f);
  std::vector<float> scales(count, NAN), out(static_cast<size_t>(count) * s.rows, NAN);
  for (int m = 0; m < count; ++m) {
    std::fill_n(x.begin() + int64_t{m} * s.ld, s.ld, uint8_t{0});
    std::ranges::copy(rows[m].bytes, x.begin() + int64_t{m} * s.ld);
    scales[m] = rows[m].scale;
  }
  const LinearArgs a = {
      .weights = reinterpret_cast<const uint16_t*>(layer.packed.data()),
      .rows = s.rows,
      .strips = s.strips,
      .cols = s.cols / 2,
      .ld = s.ld / 2,
      .interleaved = s.interleaved,
      .x = reinterpret_cast<const uint16_t*>(x.data()),
      .ldx = s.ld / 2,
      .count = &count,
      .bias = layer.spec.bias.empty() ? nullptr : layer.spec.bias.data(),
      .mode = LinearOut::kStore,
      .out = out.data(),
      .ldo = s.rows,
      .weight_scales = reinterpret_cast<const float*>(layer.packed.data() + s.matrix_bytes()),
      .x_scales = scales.data()};
  const int segments = parts(a.ld, kHopperSegment), each = parts(segments, std::min(tile.splits, segments));
  HopperPlan plan = {.tile = tile.shape,
                     .grid = {parts(a.strips * 16, tile.shape.rows), parts(count, tile.shape.tokens), each,
                              nullptr, nullptr},
                     .splits = parts(segments, each)};
  std::vector<float> partials(plan.partial_floats(), NAN);
  std::vector<int32_t> arrived(plan.blocks(), 0);
  plan.grid.partials = partials.data(), plan.grid.arrived = arrived.data();
  const auto weights = make_tensor_map({a.weights, a.strips * 16, a.ld, a.ld, tile.shape.rows});
  const auto map = make_tensor_map({a.x, count, a.cols, a.ldx, tile.shape.tokens});
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  launch_hopper_linear({*weights, *map, a, plan.grid, plan.splits, tile.shape}, {stream});
  cudaStreamDestroy(stream);
  return out;
}

void expect_same_bits(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
        << i << ": " << got[i] << ", want " << want[i];
}

struct Case {
  std::vector<int> parts;
  int cols;
  bool bias;
};
class Fp8Linear : public testing::TestWithParam<Case> {};

TEST_P(Fp8Linear, HasTheBitsOfTheScalarArithmeticInEveryTile) {
  Random random(21);
  SCOPED_TRACE(random.seed());
  const auto& [parts, cols, bias] = GetParam();
  const Fp8Layer layer = make_layer(parts, cols, bias, random);
  std::vector<Fp8Row> rows;
  for (int m = 0; m < 66; ++m) rows.push_back(quantised(random.floats(cols, m % 5 == 0 ? 30.0f : 0.5f)));
  rows[1] = quantised(std::vector<float>(cols, 0.0f));
  std::vector<float> want;
  for (const Fp8Row& x : rows)
    for (int n = 0; n < layer.shape.rows; ++n) want.push_back(layer.product(x, n));
  for (const Tile& tile : {Tile{{64, 8}, 1}, Tile{{64, 8}, 3}, Tile{{64, 16}, 2}, Tile{{64, 32}, 1},
                           Tile{{64, 64}, 2}, Tile{{64, 128}, 1}, Tile{{128, 128}, 1}}) {
    SCOPED_TRACE(tile.shape.tokens);
    const int count = std::min<int>(tile.shape.tokens, rows.size()) - random.between(0, 3);
    const std::vector<Fp8Row> some(rows.begin(), rows.begin() + count);
    expect_same_bits(run(layer, some, tile),
                     {want.begin(), want.begin() + int64_t{count} * layer.shape.rows});
  }
}

// The scales belong to their blocks: without them the product is elsewhere. 4 bits of a number leave some 4 %
// of each product (one standard deviation).
TEST_P(Fp8Linear, FollowsTheFloatProduct) {
  Random random(22);
  SCOPED_TRACE(random.seed());
  const auto& [parts, cols, bias] = GetParam();
  const Fp8Layer layer = make_layer(parts, cols, bias, random);
  const std::vector<float> x = random.floats(cols);
  const Fp8Row row = quantised(x);
  int n = 0;
  for (size_t p = 0; p < parts.size(); ++p)
    for (int r = 0; r < parts[p]; ++r, ++n) {
      double exact = bias ? layer.spec.bias[n] : 0;
      for (int k = 0; k < cols; ++k)
        exact += double{bfloat16_to_float(layer.stored[p][static_cast<size_t>(r) * cols + k])} * x[k];
      EXPECT_NEAR(layer.product(row, n), exact, 0.2 * std::sqrt(cols) * 0.2) << n;
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Fp8Linear,
                         testing::Values(Case{{16}, 128, false}, Case{{8, 8, 16}, 64, true},
                                         Case{{136, 24, 24}, 200, false}, Case{{136, 136}, 264, true},
                                         Case{{24}, 2048 * 2 + 136, false}));

TEST(Fp8Packing, RefusesRowsThatShareAStripWithoutSharingAScale) {
  Random random(23);
  const std::vector<uint16_t> stored = to_brain(random.floats(12 * 64));
  const LinearSpec spec = {
      .parts = {{DType::kBF16, reinterpret_cast<const std::byte*>(stored.data()), 12, 64}}, .bias = {}};
  EXPECT_FALSE(pack_fp8(spec, packed_shape(spec, PackedType::kFp8)).ok());
}

// Of an fp8 checkpoint: gate and up, rows 8 and on of a larger matrix.
TEST(Fp8Packing, KeepsNumbersAndScalesOfACheckpoint) {
  Random random(25);
  SCOPED_TRACE(random.seed());
  constexpr int kRows = 144, kCols = 200, kFirst = 8, kCount = 136;
  std::vector<uint8_t> numbers(kRows * kCols);
  for (uint8_t& n : numbers) n = static_cast<uint8_t>(random.between(0, 1) * 128 + random.between(0, 126));
  const std::vector<float> scales = random.floats(2 * 2);
  const WeightView whole = {.type = DType::kF8E4M3,
                            .data = reinterpret_cast<const std::byte*>(numbers.data()),
                            .rows = kRows,
                            .cols = kCols,
                            .block_scales = scales.data()};
  const WeightView part = rows_of(whole, kFirst, kCount);
  Fp8Layer layer;
  layer.spec = {.parts = {part, part}, .bias = {}};
  layer.shape = packed_shape(layer.spec, PackedType::kFp8);
  layer.packed = *pack_fp8(layer.spec, layer.shape);
  for (int r = 0; r < 2 * kCount; ++r)
    for (int c = 0; c < kCols; ++c) {
      const int row = kFirst + r % kCount;
      ASSERT_EQ(layer.byte(r, c), numbers[row * kCols + c]);
      ASSERT_EQ(layer.scale(r, c / 128), scales[row / 128 * 2 + c / 128]);
    }
  layer.spec.parts = {rows_of(whole, 4, 8)};
  EXPECT_FALSE(pack_fp8(layer.spec, packed_shape(layer.spec, PackedType::kFp8)).ok()) << "between two scales";
  numbers[kFirst * kCols + 3] = 0xff;
  layer.spec.parts = {part};
  EXPECT_FALSE(pack_fp8(layer.spec, packed_shape(layer.spec, PackedType::kFp8)).ok()) << "not a number";
}

// norm_factor: 256 chains, the lanes of each warp in pairs 16, 8, 4, 2, 1 apart, the warps ascending.
float norm_by_lanes(const float* x, int width, float eps) {
  float lanes[256] = {}, sum = 0;
  for (int i = 0; i < width; ++i) lanes[i % 256] = std::fma(x[i], x[i], lanes[i % 256]);
  for (int warp = 0; warp < 256; warp += 32) {
    for (int apart = 16; apart >= 1; apart /= 2) {
      float next[32];
      for (int l = 0; l < 32; ++l) next[l] = lanes[warp + l] + lanes[warp + (l ^ apart)];
      std::copy(next, next + 32, lanes + warp);
    }
    sum = warp == 0 ? lanes[0] : sum + lanes[warp];
  }
  return 1.0f / std::sqrt(sum / static_cast<float>(width) + eps);
}

// Rows as the producers leave them: the norm's values, and what another kernel stored in bf16.
TEST(Fp8Rows, AreTheScalarOnes) {
  Random random(24);
  SCOPED_TRACE(random.seed());
  constexpr int kRows = 3, kWidth = 328, kLd = 384;
  const std::vector<float> x = random.floats(kRows * kWidth, 3.0f), weight = random.floats(kWidth);
  const std::vector<uint16_t> brain = to_brain(x);
  std::vector<uint16_t> normed(kRows * kWidth);
  std::vector<uint8_t> bytes(kRows * kLd, 0x7f);
  std::vector<float> scales(kRows, NAN);
  const int32_t count = kRows;
  const Fp8Rows out = {bytes.data(), kLd, scales.data()};
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  const auto expect_rows = [&](const std::function<float(int, int)>& value) {
    for (int r = 0; r < kRows; ++r) {
      std::vector<float> values;
      for (int i = 0; i < kWidth; ++i) values.push_back(value(r, i));
      const Fp8Row want = quantised(values);
      EXPECT_EQ(scales[r], want.scale);
      for (int i = 0; i < kLd; ++i)
        ASSERT_EQ(bytes[r * kLd + i], i < kWidth ? want.bytes[i] : 0) << r << " " << i;
    }
  };
  launch_quantise({brain.data(), kWidth, kWidth, &count, out}, kRows + 1, {stream});
  expect_rows([&](int r, int i) { return bfloat16_to_float(brain[r * kWidth + i]); });
  const int32_t index[] = {2, 0, 1};
  const NormArgs norm = {.x = x.data(),
                         .weight = weight.data(),
                         .eps = 1e-5f,
                         .width = kWidth,
                         .index = index,
                         .count = &count,
                         .out = normed.data(),
                         .ld = kWidth};
  launch_norm_quantise(norm, out, kRows + 1, {stream});
  cudaStreamDestroy(stream);
  expect_rows([&](int r, int i) {
    const float* row = x.data() + index[r] * kWidth;
    return (row[i] * norm_by_lanes(row, kWidth, 1e-5f)) * weight[i];
  });
}

}  // namespace
}  // namespace baton::kernels::cuda
