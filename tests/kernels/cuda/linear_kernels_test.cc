// The matrix kernels, emulated: right, and the same bits whichever kernel computes a row and however many
// rows there are.
#include "tests/kernels/cuda/kernel_fixture.h"

#include <bit>

#include "kernels/cpu/contract.h"
#include "kernels/cuda/hopper_launches.h"
#include "kernels/cuda/hopper_linear.cuh"

namespace baton::kernels::cuda {
namespace {

struct Layer {
  int rows, cols;
  bool interleaved = false;
  bool bias = false;
};

// Weights in the device's layout, and plain.
struct Weights {
  Layer layer;
  int strips, ld;
  std::vector<float> plain;      // [rows][cols], already rounded
  std::vector<uint16_t> packed;  // [strips * 16][ld]
  std::vector<float> bias;
};

Weights make_weights(const Layer& layer, Random& random) {
  Weights w{.layer = layer,
            .strips = layer.interleaved ? (layer.rows / 2 + 7) / 8 : (layer.rows + 15) / 16,
            .ld = (layer.cols + 63) / 64 * 64};
  w.plain = random.floats(static_cast<size_t>(layer.rows) * layer.cols, 0.2f);
  w.packed.assign(static_cast<size_t>(w.strips) * 16 * w.ld, 0);
  for (int n = 0; n < layer.rows; ++n) {
    const int half = layer.rows / 2, i = n % half;
    const int at = layer.interleaved ? i / 8 * 16 + i % 8 + (n >= half ? 8 : 0) : n;
    for (int k = 0; k < layer.cols; ++k) {
      float& value = w.plain[static_cast<size_t>(n) * layer.cols + k];
      value = bfloat16_to_float(w.packed[static_cast<size_t>(at) * w.ld + k] = float_to_bfloat16(value));
    }
  }
  if (layer.bias) w.bias = random.floats(layer.rows);
  return w;
}

enum class Kernel { kStream1, kStream2, kStream4, kStream8, kTile };
constexpr int kMostRows[] = {8, 16, 32, 64, 1 << 20};

// The kernel of sm_90a with a tile and a number of splits of its segments.
struct Hopper {
  HopperTileShape tile;
  int splits;
};
void run(const Hopper& h, const LinearArgs& a, int count) {
  const auto parts = [](int whole, int each) { return (whole + each - 1) / each; };
  const int segments = parts(a.ld, kHopperSegment), each = parts(segments, std::min(h.splits, segments));
  HopperPlan plan = {
      .tile = h.tile,
      .grid = {parts(a.strips * 16, h.tile.rows), parts(count, h.tile.tokens), each, nullptr, nullptr},
      .splits = parts(segments, each)};
  std::vector<float> partials(plan.partial_floats(), NAN);
  std::vector<int32_t> arrived(plan.blocks(), 0);
  plan.grid.partials = partials.data(), plan.grid.arrived = arrived.data();
  const auto weights = make_tensor_map({a.weights, a.strips * 16, a.ld, a.ld, h.tile.rows});
  const auto x = make_tensor_map({a.x, count, a.cols, a.ldx, h.tile.tokens});
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  launch_hopper_linear({*weights, *x, a, plan.grid, plan.splits, h.tile}, {stream});
  cudaStreamDestroy(stream);
  for (const int32_t left : arrived) EXPECT_EQ(left, 0) << "the next layer finds a count";
}

void run(Kernel kernel, const LinearArgs& a, int count) {
  const auto stream_bytes = [](int tiles) { return kStreamWarps * 128 * tiles * sizeof(float); };
  const unsigned strips = static_cast<unsigned>(a.strips);
  switch (kernel) {
    case Kernel::kStream1:
      return emulated::launch({strips}, 256, stream_bytes(1), [&] { stream_kernel<1>(a); });
    case Kernel::kStream2:
      return emulated::launch({strips}, 256, stream_bytes(2), [&] { stream_kernel<2>(a); });
    case Kernel::kStream4:
      return emulated::launch({strips}, 256, stream_bytes(4), [&] { stream_kernel<4>(a); });
    case Kernel::kStream8:
      return emulated::launch({strips}, 256, stream_bytes(8), [&] { stream_kernel<8>(a); });
    case Kernel::kTile:
      return emulated::launch({(strips * 16 + kTileRows - 1) / kTileRows,
                               static_cast<unsigned>((count + kTileTokens - 1) / kTileTokens)},
                              kTileThreads, kTileStages * kTileStageBytes, [&] { tile_kernel(a); });
  }
}

// Rows of x beyond `count` are NaN: they must not be read into a result.
struct Input {
  int count;
  int64_t ld;
  std::vector<uint16_t> x;
};

template <class Kernel>
std::vector<float> product(const Kernel& kernel, const Weights& w, const Input& in, LinearOut mode) {
  const int32_t count = in.count;
  const int64_t ldo = w.layer.rows;
  std::vector<float> out(static_cast<size_t>(in.count + 1) * ldo, mode == LinearOut::kAdd ? 0.5f : NAN);
  std::vector<uint16_t> half(static_cast<size_t>(in.count + 1) * ldo, 0);
  const LinearArgs a = {.weights = w.packed.data(),
                        .rows = w.layer.rows,
                        .strips = w.strips,
                        .cols = w.layer.cols,
                        .ld = w.ld,
                        .interleaved = w.layer.interleaved,
                        .x = in.x.data(),
                        .ldx = in.ld,
                        .count = &count,
                        .bias = w.bias.empty() ? nullptr : w.bias.data(),
                        .mode = mode,
                        .out = mode == LinearOut::kSilu ? static_cast<void*>(half.data()) : out.data(),
                        .ldo = ldo};
  run(kernel, a, in.count);
  if (mode != LinearOut::kSilu) {
    for (int64_t i = in.count * ldo; i < (in.count + 1) * ldo; ++i)
      EXPECT_EQ(std::isnan(out[i]), mode != LinearOut::kAdd) << "a row beyond the last was written";
    out.resize(in.count * ldo);
    return out;
  }
  std::vector<float> opened;
  for (int m = 0; m < in.count; ++m)
    for (int i = 0; i < w.layer.rows / 2; ++i) opened.push_back(bfloat16_to_float(half[m * ldo + i]));
  return opened;
}

Input make_input(int count, const Layer& layer, Random& random) {
  Input in{.count = count, .ld = (layer.cols + 7) / 8 * 8 + 8 * random.between(0, 3)};
  in.x = to_brain(random.floats(static_cast<size_t>(count + 70) * in.ld));
  for (size_t i = static_cast<size_t>(count) * in.ld; i < in.x.size(); ++i) in.x[i] = 0x7fc0;
  for (int m = 0; m < count; ++m)
    for (int64_t k = layer.cols; k < in.ld; ++k) in.x[m * in.ld + k] = 0x7fc0;
  return in;
}

double exact(const Weights& w, const Input& in, int m, int n) {
  double y = 0;
  for (int k = 0; k < w.layer.cols; ++k)
    y += double{w.plain[static_cast<size_t>(n) * w.layer.cols + k]} * bfloat16_to_float(in.x[m * in.ld + k]);
  return y + (w.bias.empty() ? 0 : w.bias[n]);
}

class LinearKernels : public testing::TestWithParam<Layer> {};

template <class Kernel>
void expect_exact_product(const Kernel& kernel, const Weights& w, const Input& in) {
  for (const LinearOut mode : {LinearOut::kStore, LinearOut::kAdd}) {
    const std::vector<float> y = product(kernel, w, in, mode);
    for (int m = 0; m < in.count; ++m)
      for (int n = 0; n < w.layer.rows; ++n)
        ASSERT_NEAR(y[m * w.layer.rows + n], exact(w, in, m, n) + (mode == LinearOut::kAdd ? 0.5 : 0), 2e-4)
            << "row " << m << ", output " << n;
  }
  if (!w.layer.interleaved) return;
  const std::vector<float> y = product(kernel, w, in, LinearOut::kSilu);
  for (int m = 0; m < in.count; ++m)
    for (int i = 0; i < w.layer.rows / 2; ++i) {
      const double gate = exact(w, in, m, i),
                   want = gate / (1 + std::exp(-gate)) * exact(w, in, m, i + w.layer.rows / 2);
      ASSERT_NEAR(y[m * (w.layer.rows / 2) + i], want, 1e-3 + std::abs(want) / 128) << m << " " << i;
    }
}

TEST_P(LinearKernels, FollowTheExactProduct) {
  Random random(11);
  SCOPED_TRACE(random.seed());
  const Weights w = make_weights(GetParam(), random);
  for (const Kernel kernel : {Kernel::kStream1, Kernel::kStream4, Kernel::kTile}) {
    SCOPED_TRACE(static_cast<int>(kernel));
    const int count = std::min(kMostRows[static_cast<int>(kernel)], 9) - random.between(0, 3);
    expect_exact_product(kernel, w, make_input(count, w.layer, random));
  }
  for (const Hopper& hopper : {Hopper{{64, 8}, 1}, Hopper{{64, 16}, 3}, Hopper{{128, 128}, 1}}) {
    SCOPED_TRACE(hopper.tile.tokens);
    const int count = std::min(hopper.tile.tokens, 9) - random.between(0, 3);
    expect_exact_product(hopper, w, make_input(count, w.layer, random));
  }
}

TEST_P(LinearKernels, GiveARowTheSameBitsInEveryBatch) {
  Random random(12);
  SCOPED_TRACE(random.seed());
  const Weights w = make_weights(GetParam(), random);
  const Input all = make_input(70, w.layer, random);
  const LinearOut mode = w.layer.interleaved ? LinearOut::kSilu : LinearOut::kStore;
  const std::vector<float> want = product(Kernel::kTile, w, all, mode);
  const size_t width = want.size() / all.count;
  for (const Kernel kernel :
       {Kernel::kStream1, Kernel::kStream2, Kernel::kStream4, Kernel::kStream8, Kernel::kTile}) {
    const int most = std::min(kMostRows[static_cast<int>(kernel)], all.count);
    for (const int count : {1, most - 1, most}) {
      Input some = all;
      some.count = count;
      const std::vector<float> got = product(kernel, w, some, mode);
      ASSERT_EQ(got.size(), count * width);
      EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
          << count << " rows, kernel " << static_cast<int>(kernel);
    }
  }
}

TEST_P(LinearKernels, GiveARowTheSameBitsInEveryHopperTile) {
  Random random(14);
  SCOPED_TRACE(random.seed());
  const Weights w = make_weights(GetParam(), random);
  const Input all = make_input(130, w.layer, random);
  const LinearOut mode = w.layer.interleaved ? LinearOut::kSilu : LinearOut::kStore;
  const std::vector<float> want = product(Hopper{{128, 128}, 1}, w, all, mode);
  const size_t width = want.size() / all.count;
  for (const Hopper& hopper :
       {Hopper{{64, 8}, 1}, Hopper{{64, 8}, 5}, Hopper{{64, 16}, 2}, Hopper{{64, 32}, 1}, Hopper{{64, 64}, 2},
        Hopper{{64, 128}, 1}, Hopper{{64, 128}, 3}}) {
    Input some = all;
    some.count = hopper.tile.tokens - random.between(0, 5);
    const std::vector<float> got = product(hopper, w, some, mode);
    ASSERT_EQ(got.size(), some.count * width);
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
        << some.count << " rows, tile " << hopper.tile.tokens << ", " << hopper.splits << " splits";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, LinearKernels,
    testing::Values(Layer{.rows = 16, .cols = 64}, Layer{.rows = 5, .cols = 8},
                    Layer{.rows = 20, .cols = 172}, Layer{.rows = 33, .cols = 136, .bias = true},
                    Layer{.rows = 130, .cols = 576}, Layer{.rows = 24, .cols = 512 * 9 + 64},
                    Layer{.rows = 2 * 12, .cols = 520, .interleaved = true, .bias = true},
                    Layer{.rows = 2 * 72, .cols = 64, .interleaved = true}));

// Every segment has a block, and the places of an H200 are filled when the shape allows it.
TEST(HopperPlan, SharesSegmentsOutOverBlocks) {
  for (const int rows : {1, 9, 64, 65, 256, 512, 513, 8192})
    for (const int n : {576, 4096, 24576})
      for (const int k : {576, 4096, 14336}) {
        const LinearArgs a = {.rows = n, .strips = n / 16, .cols = k, .ld = k};
        const HopperPlan plan = plan_hopper_linear(a, rows, 132);
        const int segments = (k + kHopperSegment - 1) / kHopperSegment;
        EXPECT_GE(plan.splits * plan.grid.segments_each, segments);
        EXPECT_LT((plan.splits - 1) * plan.grid.segments_each, segments) << "a block without work";
        EXPECT_GE(plan.grid.token_tiles * plan.tile.tokens, rows);
        EXPECT_GE(plan.grid.row_blocks * plan.tile.rows, n);
        EXPECT_EQ(plan.partial_floats() == 0, plan.splits == 1);
        EXPECT_TRUE(rows <= 512 || plan.splits == 1) << rows;
      }
  const LinearArgs o_proj = {.rows = 4096, .strips = 256, .cols = 4096, .ld = 4096};
  EXPECT_EQ(plan_hopper_linear(o_proj, 1, 132).splits, 4);
}

TEST(LinearKernel, AnEmptyBatchWritesNothing) {
  Random random(13);
  const Weights w = make_weights({.rows = 16, .cols = 64}, random);
  const Input in = make_input(0, w.layer, random);
  EXPECT_TRUE(product(Kernel::kStream1, w, in, LinearOut::kStore).empty());
  EXPECT_TRUE(product(Kernel::kTile, w, in, LinearOut::kStore).empty());
}

}  // namespace
}  // namespace baton::kernels::cuda
