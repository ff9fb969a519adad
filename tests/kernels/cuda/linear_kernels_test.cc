// The matrix kernels, emulated: right, and the same bits whichever kernel computes a row and however many
// rows there are.
#include "tests/kernels/cuda/kernel_fixture.h"

#include <bit>

#include "kernels/cpu/contract.h"

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

std::vector<float> product(Kernel kernel, const Weights& w, const Input& in, LinearOut mode) {
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
  Input in{.count = count, .ld = layer.cols + 8 * random.between(0, 3)};
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

TEST_P(LinearKernels, FollowTheExactProduct) {
  Random random(11);
  SCOPED_TRACE(random.seed());
  const Weights w = make_weights(GetParam(), random);
  for (const Kernel kernel : {Kernel::kStream1, Kernel::kStream4, Kernel::kTile}) {
    const int count = std::min(kMostRows[static_cast<int>(kernel)], 9) - random.between(0, 3);
    const Input in = make_input(count, w.layer, random);
    for (const LinearOut mode : {LinearOut::kStore, LinearOut::kAdd}) {
      const std::vector<float> y = product(kernel, w, in, mode);
      for (int m = 0; m < count; ++m)
        for (int n = 0; n < w.layer.rows; ++n)
          ASSERT_NEAR(y[m * w.layer.rows + n], exact(w, in, m, n) + (mode == LinearOut::kAdd ? 0.5 : 0), 2e-4)
              << "row " << m << ", output " << n << ", kernel " << static_cast<int>(kernel);
    }
    if (!w.layer.interleaved) continue;
    const std::vector<float> y = product(kernel, w, in, LinearOut::kSilu);
    for (int m = 0; m < count; ++m)
      for (int i = 0; i < w.layer.rows / 2; ++i) {
        const double gate = exact(w, in, m, i),
                     want = gate / (1 + std::exp(-gate)) * exact(w, in, m, i + w.layer.rows / 2);
        ASSERT_NEAR(y[m * (w.layer.rows / 2) + i], want, 1e-3 + std::abs(want) / 128) << m << " " << i;
      }
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

INSTANTIATE_TEST_SUITE_P(
    Shapes, LinearKernels,
    testing::Values(Layer{.rows = 16, .cols = 64}, Layer{.rows = 5, .cols = 8},
                    Layer{.rows = 33, .cols = 136, .bias = true}, Layer{.rows = 130, .cols = 576},
                    Layer{.rows = 24, .cols = 512 * 9 + 64},
                    Layer{.rows = 2 * 12, .cols = 520, .interleaved = true, .bias = true},
                    Layer{.rows = 2 * 72, .cols = 64, .interleaved = true}));

TEST(LinearKernel, AnEmptyBatchWritesNothing) {
  Random random(13);
  const Weights w = make_weights({.rows = 16, .cols = 64}, random);
  const Input in = make_input(0, w.layer, random);
  EXPECT_TRUE(product(Kernel::kStream1, w, in, LinearOut::kStore).empty());
}

}  // namespace
}  // namespace baton::kernels::cuda
