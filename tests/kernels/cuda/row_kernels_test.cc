// The kernels that work row by row, emulated, against the scalar contract.
#include "tests/kernels/cuda/kernel_fixture.h"

#include <bit>

#include "kernels/cpu/contract.h"

namespace baton::kernels::cuda {
namespace {

TEST(RowKernels, EmbeddingCopiesRowsOfTheTable) {
  Random random(1);
  const int width = 300, ld = 320;
  const std::vector<uint16_t> table = to_brain(random.floats(10 * ld));
  OwnedStep step;
  step.add_sequence({0, 3}, {0});
  step.tokens = {9, 0, 4};
  std::vector<float> out(4 * width, -1);
  const StepTables tables = step.tables();
  emulated::launch({4}, kRowThreads, 0,
                   [&] { embed_kernel(tables, {table.data(), width, ld, out.data(), nullptr}); });
  for (int row = 0; row < 3; ++row)
    for (int i = 0; i < width; ++i)
      ASSERT_EQ(out[row * width + i], bfloat16_to_float(table[step.tokens[row] * ld + i]));
  EXPECT_EQ(out[3 * width], -1) << "a row beyond the step was written";
}

// Rows fed by the step before take its tokens, which later kernels find where the others stand.
TEST(RowKernels, EmbeddingTakesDrawnTokens) {
  Random random(3);
  const int width = 40, ld = 64;
  const std::vector<uint16_t> table = to_brain(random.floats(10 * ld));
  OwnedStep step;
  step.add_sequence({0, 4}, {0});
  step.tokens = {9, 7, 4, 7};
  step.fed = {-1, 1, -1, 0};
  const std::vector<DrawnToken> drawn = {{-1, DrawnToken::kNotFinite}, {6, DrawnToken::kDrawn}};
  std::vector<float> out(4 * width);
  const StepTables tables = step.tables();
  emulated::launch({4}, kRowThreads, 0,
                   [&] { embed_kernel(tables, {table.data(), width, ld, out.data(), drawn.data()}); });
  EXPECT_EQ(step.tokens, (std::vector<int32_t>{9, 6, 4, 0}));
  for (int row = 0; row < 4; ++row)
    for (int i = 0; i < width; ++i)
      ASSERT_EQ(out[row * width + i], bfloat16_to_float(table[step.tokens[row] * ld + i]));
}

TEST(RowKernels, NormFollowsTheContract) {
  for (const int width : {8, 64, 576, 5000}) {
    Random random(2);
    const int ld = (width + 63) / 64 * 64;
    const std::vector<float> x = random.floats(4 * width, 3), weight = random.floats(width);
    const std::vector<int32_t> index = {3, 1};
    const int32_t count = 2;
    std::vector<uint16_t> out(3 * ld, 0xffff);
    emulated::launch({3}, kRowThreads, 0, [&] {
      norm_kernel({x.data(), weight.data(), 1e-5f, width, index.data(), &count, out.data(), ld});
    });
    for (int row = 0; row < count; ++row) {
      std::vector<float> want(width);
      contract::rms_norm(std::span(x).subspan(index[row] * width, width), weight, 1e-5f, want);
      for (int i = 0; i < width; ++i)
        ASSERT_NEAR(bfloat16_to_float(out[row * ld + i]), want[i], std::abs(want[i]) / 200 + 1e-6)
            << width << " " << i;
      for (int i = width; i < ld; ++i) ASSERT_EQ(out[row * ld + i], 0) << "the filling is not zero";
    }
    EXPECT_EQ(out[2 * ld], 0xffff);
  }
}

TEST(RowKernels, RowsOfSeveralRanksAreAddedAndJoined) {
  Random random(9);
  const int width = 300, rows = 3, parts = 2;
  const std::vector<float> y = random.floats(rows * width), bias = random.floats(width);
  for (const bool biased : {false, true}) {
    const std::vector<float> before = random.floats(rows * width);
    std::vector<float> residual = before;
    emulated::launch({rows}, kRowThreads, 0, [&] {
      add_rows_kernel({y.data(), biased ? bias.data() : nullptr, residual.data(), width});
    });
    for (int i = 0; i < rows * width; ++i)
      ASSERT_EQ(residual[i], before[i] + (biased ? y[i] + bias[i % width] : y[i])) << i;
  }
  const std::vector<float> gathered = random.floats(parts * rows * width);
  std::vector<float> out(rows * parts * width);
  emulated::launch({rows, parts}, kRowThreads, 0,
                   [&] { join_rows_kernel({gathered.data(), out.data(), parts, rows, width, false}); });
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < parts * width; ++i)
      ASSERT_EQ(out[r * parts * width + i], gathered[(i / width * rows + r) * width + i % width]);
  emulated::launch({rows, parts}, kRowThreads, 0,
                   [&] { join_rows_kernel({gathered.data(), out.data(), parts, rows, width, true}); });
  const auto* halves = reinterpret_cast<const uint16_t*>(gathered.data());
  const auto* joined = reinterpret_cast<const uint16_t*>(out.data());
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < parts * width; ++i)
      ASSERT_EQ(joined[2 * r * parts * width + i], halves[2 * (i / width * rows + r) * width + i % width]);
}

TEST(RowKernels, SiluHasTheContractsBits) {
  Random random(3);
  const int width = 20, ldh = 48;  // strips of 8 + 8
  const std::vector<float> h = random.floats(2 * ldh, 4);
  const int32_t count = 2;
  std::vector<uint16_t> out(2 * 2 * width, 0);
  emulated::launch({2}, kRowThreads, 0,
                   [&] { silu_kernel({h.data(), width, ldh, &count, out.data(), 2 * width}); });
  for (int row = 0; row < 2; ++row)
    for (int i = 0; i < width; ++i) {
      const float* strip = h.data() + row * ldh + i / 8 * 16 + i % 8;
      ASSERT_EQ(out[row * 2 * width + i], float_to_bfloat16(contract::silu(strip[0]) * strip[8]))
          << row << " " << i;
    }
}

TEST(RowKernels, KeptRowsMoveToTheFront) {
  Random random(4);
  const int width = 300;
  const std::vector<float> before = random.floats(6 * width);
  std::vector<float> values = before;
  OwnedStep step;
  step.add_sequence({0, 6}, {0});
  step.logit_rows = {1, 2, 5};
  const StepTables tables = step.tables();
  emulated::launch({2}, kRowThreads, 0, [&] { keep_rows_kernel(tables, values.data(), width); });
  for (int i = 0; i < 3; ++i)
    for (int c = 0; c < width; ++c) ASSERT_EQ(values[i * width + c], before[step.logit_rows[i] * width + c]);
}

struct Rope {
  int heads, kv_heads, dim, pairs;
  bool interleaved, norm;
  int block_tokens;
};

void check_rope(const Rope& r) {
  Random random(5);
  SCOPED_TRACE(r.dim);
  OwnedStep step;
  step.add_sequence({r.block_tokens - 2, 4}, {2, 0});  // crosses into the second page
  step.add_sequence({3, 1}, {1});
  const int all = r.heads + 2 * r.kv_heads, rows = 5;
  const std::vector<float> before = random.floats(static_cast<size_t>(rows) * all * r.dim);
  const std::vector<float> q_norm = random.floats(r.dim), k_norm = random.floats(r.dim);
  std::vector<float> rotations, qkv = before;
  for (int p = 0; p < r.block_tokens + 8; ++p)
    for (int i = 0; i < r.pairs; ++i) {
      const contract::Rotation rotation = contract::rotation(p, std::pow(10000.0, -double(i) / r.pairs), 1.0);
      rotations.insert(rotations.end(), {rotation.cos, rotation.sin});
    }
  const size_t vector_count = static_cast<size_t>(3) * 2 * r.kv_heads * r.block_tokens;
  std::vector<uint16_t> pool(vector_count * r.dim, 0xabcd);
  const RopeArgs args = {qkv.data(),
                         rotations.data(),
                         r.norm ? q_norm.data() : nullptr,
                         r.norm ? k_norm.data() : nullptr,
                         1e-6f,
                         r.heads,
                         r.pairs,
                         r.interleaved,
                         {pool.data(), r.kv_heads, r.dim, r.block_tokens}};
  const StepTables tables = step.tables();
  emulated::launch(
      {static_cast<unsigned>(rows + 1), static_cast<unsigned>((all + kRopeWarps - 1) / kRopeWarps)},
      32 * kRopeWarps, sizeof(float) * kRopeWarps * r.dim, [&] { rope_store_kernel(tables, args); });
  size_t written = 0;
  for (int row = 0; row < rows; ++row)
    for (int h = 0; h < all; ++h) {
      const bool is_v = h >= r.heads + r.kv_heads;
      std::vector<float> want(before.begin() + (row * all + h) * r.dim,
                              before.begin() + (row * all + h + 1) * r.dim);
      if (!is_v && r.norm) contract::rms_norm(want, h < r.heads ? q_norm : k_norm, 1e-6f, want);
      std::vector<contract::Rotation> angles;
      for (int i = 0; i < r.pairs; ++i) {
        const size_t at = (static_cast<size_t>(step.positions[row]) * r.pairs + i) * 2;
        angles.push_back({rotations[at], rotations[at + 1]});
      }
      if (!is_v) contract::rotate(want, angles, r.interleaved);
      const int position = step.positions[row];
      const int block = step.blocks[step.block_starts[step.row_sequence[row]] + position / r.block_tokens];
      for (int d = 0; d < r.dim; ++d) {
        // The norm's sum has another order than the contract's: a few ulp.
        if (h < r.heads) {
          ASSERT_NEAR(qkv[(row * all + h) * r.dim + d], want[d], r.norm ? 1e-5 : 0)
              << row << " " << h << " " << d;
          continue;
        }
        const size_t at = ((static_cast<size_t>(block) * 2 * r.kv_heads + h - r.heads) * r.block_tokens +
                           position % r.block_tokens) *
                              r.dim +
                          d;
        ASSERT_NEAR(bfloat16_to_float(pool[at]), want[d], std::abs(want[d]) / 200 + 1e-5) << row << " " << h;
        ++written;
      }
    }
  size_t untouched = 0;
  for (const uint16_t v : pool) untouched += v == 0xabcd;
  EXPECT_GE(untouched + written, pool.size()) << "something else was written";
}

TEST(RowKernels, RopeRotatesNormsAndStores) {
  check_rope({.heads = 4,
              .kv_heads = 2,
              .dim = 64,
              .pairs = 32,
              .interleaved = false,
              .norm = false,
              .block_tokens = 16});
  check_rope({.heads = 3,
              .kv_heads = 1,
              .dim = 128,
              .pairs = 64,
              .interleaved = false,
              .norm = true,
              .block_tokens = 64});
  check_rope({.heads = 2,
              .kv_heads = 2,
              .dim = 8,
              .pairs = 3,
              .interleaved = true,
              .norm = false,
              .block_tokens = 16});
}

TEST(RowKernels, TheExponentialIsTheContracts) {
  Random random(6);
  for (const float x : random.floats(20000, 40)) ASSERT_EQ(exponential(x), contract::exponential(x)) << x;
  EXPECT_TRUE(std::isnan(exponential(NAN)));
}

}  // namespace
}  // namespace baton::kernels::cuda
