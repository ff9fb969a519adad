// Hugging Face directories whose matrices are fp8 with a scale for each 128 x 128 weights.
#include "worker/model/fp8_checkpoint.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "kernels/backend.h"
#include "kernels/dequantize.h"
#include "kernels/float16.h"
#include "kernels/float8.h"
#include "kernels/weight_slice.h"
#include "tests/support/fp8_checkpoint.h"
#include "tests/worker/model/temp_dir.h"
#include "worker/model/model_file.h"

namespace baton::worker {
namespace {

using baton::testing::Fp8Matrix;
using baton::testing::quantise_fp8;
using baton::testing::StoredEntry;
using baton::testing::TempDir;
using ::testing::HasSubstr;

class Fp8Checkpoint : public ::testing::Test {
 protected:
  // The matrices of layers in fp8, all else as RandomModel has it; `change` before the file is written.
  void write(const std::function<void(std::vector<StoredEntry>&)>& change = [](auto&) {}) {
    stored_ = baton::testing::write_fp8_checkpoint(directory_, {.hidden = 192, .ffn = 160}, change);
  }
  std::string refusal() const {
    const auto file = ModelFile::open(directory_);
    return file.ok() ? "accepted" : std::string(file.status().message());
  }

  TempDir dir_{"fp8"};
  const std::string directory_ = dir_.file("hf");
  std::map<std::string, Fp8Matrix> stored_;
};

StoredEntry& named(std::vector<StoredEntry>& entries, std::string_view name) {
  return *std::ranges::find(entries, name, &StoredEntry::name);
}
constexpr char kDown[] = "model.layers.1.mlp.down_proj.weight";

TEST_F(Fp8Checkpoint, IsOpenedToNumbersTimesScales) {
  write();
  const auto file = ModelFile::open(directory_);
  ASSERT_TRUE(file.ok()) << file.status();
  const kernels::WeightView& down = (*file)->weights().layers[1].down;
  ASSERT_EQ(down.type, DType::kBF16);
  ASSERT_EQ(down.rows, 192);
  ASSERT_EQ(down.cols, 160);
  const Fp8Matrix& q = stored_.at(kDown);
  std::vector<float> opened;
  for (int64_t i = 0; i < 192 * 160; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, down.data + 2 * i, 2);
    const float scale = q.scales[i / 160 / 128 * 2 + i % 160 / 128];
    ASSERT_EQ(bits, kernels::float_to_bfloat16(kernels::e4m3_to_float(q.numbers[i]) * scale)) << i;
    opened.push_back(kernels::bfloat16_to_float(bits));
  }
  // A device that quantises the same blocks finds the numbers of the file again.
  EXPECT_EQ(quantise_fp8(opened, 192, 160).numbers, q.numbers);
  EXPECT_EQ((*file)->weights().head.type, DType::kF32) << "what is no fp8 stays in the file";
  EXPECT_EQ((*file)->own_bytes() % 2, 0u);
  EXPECT_GE((*file)->own_bytes(), size_t{2} * 2 * (3 * 192 * 160 + 2 * 192 * 64));
  (*file)->release(down);  // memory of our own: still there
  uint16_t bits = 0;
  std::memcpy(&bits, down.data + 2 * 7, 2);
  EXPECT_EQ(kernels::bfloat16_to_float(bits), opened[7]);
}

// For a device that multiplies fp8: numbers in the file, scales as floats, some rows of a matrix too.
TEST_F(Fp8Checkpoint, IsKeptAsItIs) {
  write();
  const auto file = ModelFile::open(directory_, ModelFile::Fp8Matrices::kKept);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->keeps_fp8());
  const kernels::WeightView& down = (*file)->weights().layers[1].down;
  ASSERT_EQ(down.type, DType::kF8E4M3);
  const Fp8Matrix& q = stored_.at(kDown);
  EXPECT_EQ(std::memcmp(down.data, q.numbers.data(), q.numbers.size()), 0);
  const kernels::WeightView part = kernels::rows_of(kernels::rows_of(down, 64, 128), 56, 72);
  std::vector<float> opened(160);
  for (int64_t r = 0; r < 72; ++r) {
    kernels::open_row(part, r, opened);
    for (int64_t c = 0; c < 160; ++c)
      ASSERT_EQ(opened[c], kernels::e4m3_to_float(q.numbers[(120 + r) * 160 + c]) *
                               q.scales[(120 + r) / 128 * 2 + c / 128]);
  }
  EXPECT_FALSE(kernels::columns_of(down, 0, 128).ok());
  EXPECT_EQ((*file)->weights().head.type, DType::kF32);
  EXPECT_LT((*file)->own_bytes(), size_t{2} * 7 * 4 * 5) << "scales only";
  const auto opened_file = ModelFile::open(directory_);
  EXPECT_EQ((*file)->hash(), (*opened_file)->hash()) << "of the file, not of what became of it";
  EXPECT_FALSE((*opened_file)->keeps_fp8());
  const auto cpu = kernels::make_backend({.device = "cpu"});
  EXPECT_THAT((*cpu)->make_linear({.parts = {down}}).status().message(), HasSubstr("opened to bf16"));
}

TEST_F(Fp8Checkpoint, RefusesWhatDoesNotFit) {
  write([](auto& entries) { named(entries, std::string(kDown) + "_scale_inv").name = "model.scales"; });
  EXPECT_THAT(refusal(),
              HasSubstr("down_proj.weight: is F8_E4M3, and model.layers.1.mlp.down_proj.weight_scale_inv"));
  write([](auto& entries) {
    StoredEntry& scales = named(entries, std::string(kDown) + "_scale_inv");
    scales.shape = {1, 1}, scales.bytes.resize(4);
  });
  EXPECT_THAT(refusal(), HasSubstr("want 2 x 2 scales"));
  write([](auto& entries) {
    const float infinite = INFINITY;
    std::memcpy(named(entries, std::string(kDown) + "_scale_inv").bytes.data() + 4, &infinite, 4);
  });
  EXPECT_THAT(refusal(), HasSubstr("a scale is infinite"));
  write([](auto& entries) { named(entries, kDown).bytes[5] = '\x7f'; });
  EXPECT_THAT(refusal(), HasSubstr("down_proj.weight: a weight is not a number"));
  write([](auto& entries) { named(entries, std::string(kDown) + "_scale_inv").type = "I32"; });
  EXPECT_THAT(refusal(), HasSubstr("want F32 or BF16"));
}

}  // namespace
}  // namespace baton::worker
