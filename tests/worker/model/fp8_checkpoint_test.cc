// Hugging Face directories whose matrices are fp8 with a scale for each 128 x 128 weights.
#include "worker/model/fp8_checkpoint.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "kernels/float16.h"
#include "kernels/float8.h"
#include "tests/support/random_model.h"
#include "tests/worker/model/temp_dir.h"
#include "worker/model/model_file.h"

namespace baton::worker {
namespace {

using baton::testing::RandomModel;
using baton::testing::TempDir;
using baton::testing::write_file;
using ::testing::HasSubstr;

constexpr char kConfig[] =
    R"(, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})";

// A tensor to be written.
struct Entry {
  std::string name, type;
  std::vector<int64_t> shape;
  std::string bytes;
};

std::string file_of(const std::vector<Entry>& entries) {
  std::string header = "{", data;
  for (const Entry& e : entries) {
    std::string shape;
    for (const int64_t dim : e.shape) shape += (shape.empty() ? "" : ",") + std::to_string(dim);
    header += (header.size() > 1 ? "," : "") + ("\"" + e.name + "\":{\"dtype\":\"" + e.type) +
              "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + e.bytes.size()) + "]}";
    data += e.bytes;
  }
  header += "}";
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// As whoever publishes such a checkpoint does: scale = largest / 448.
struct Quantised {
  std::vector<uint8_t> numbers;
  std::vector<float> scales;
};
Quantised quantise(const std::vector<float>& w, int64_t rows, int64_t cols) {
  const int64_t across = (cols + 127) / 128;
  Quantised q{std::vector<uint8_t>(w.size()), std::vector<float>((rows + 127) / 128 * across)};
  for (int64_t i = 0; i < rows * cols; ++i) {
    float& scale = q.scales[i / cols / 128 * across + i % cols / 128];
    scale = std::max(scale, std::abs(w[i]) / kernels::kLargestE4m3);
  }
  for (int64_t i = 0; i < rows * cols; ++i)
    q.numbers[i] = kernels::float_to_e4m3(w[i] / q.scales[i / cols / 128 * across + i % cols / 128]);
  return q;
}

class Fp8Checkpoint : public ::testing::Test {
 protected:
  // The matrices of layers in fp8, all else as RandomModel has it; `change` before the file is written.
  void write(const std::function<void(std::vector<Entry>&)>& change = [](auto&) {}) {
    const RandomModel model({.hidden = 192, .ffn = 160});
    ASSERT_TRUE(model.write_hugging_face(directory_, kConfig));
    std::ifstream stream(directory_ + "/model.safetensors", std::ios::binary);
    std::stringstream text;
    text << stream.rdbuf();
    const std::string image = text.str();
    const auto tensors =
        parse_safetensors("m", {reinterpret_cast<const std::byte*>(image.data()), image.size()});
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    std::vector<Entry> entries;
    for (const SafetensorsTensor& t : *tensors) {
      const bool layer = t.shape.size() == 2 && t.name.starts_with("model.layers.");
      const std::string bytes(reinterpret_cast<const char*>(t.data), t.bytes);
      if (!layer) {
        entries.push_back({t.name, t.stored_type, t.shape, bytes});
        continue;
      }
      std::vector<float> values(t.bytes / sizeof(float));
      std::memcpy(values.data(), bytes.data(), bytes.size());
      const Quantised q = quantise(values, t.shape[0], t.shape[1]);
      stored_[t.name] = q;
      entries.push_back({t.name, "F8_E4M3", t.shape, bytes_of(q.numbers)});
      entries.push_back({t.name + "_scale_inv",
                         "F32",
                         {(t.shape[0] + 127) / 128, (t.shape[1] + 127) / 128},
                         bytes_of(q.scales)});
    }
    change(entries);
    write_file(directory_ + "/model.safetensors", file_of(entries));
  }
  std::string refusal() const {
    const auto file = ModelFile::open(directory_);
    return file.ok() ? "accepted" : std::string(file.status().message());
  }

  TempDir dir_{"fp8"};
  const std::string directory_ = dir_.file("hf");
  std::map<std::string, Quantised> stored_;
};

Entry& named(std::vector<Entry>& entries, std::string_view name) {
  return *std::ranges::find(entries, name, &Entry::name);
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
  const Quantised& q = stored_.at(kDown);
  std::vector<float> opened;
  for (int64_t i = 0; i < 192 * 160; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, down.data + 2 * i, 2);
    const float scale = q.scales[i / 160 / 128 * 2 + i % 160 / 128];
    ASSERT_EQ(bits, kernels::float_to_bfloat16(kernels::e4m3_to_float(q.numbers[i]) * scale)) << i;
    opened.push_back(kernels::bfloat16_to_float(bits));
  }
  // A device that quantises the same blocks multiplies the numbers of the file.
  EXPECT_EQ(quantise(opened, 192, 160).numbers, q.numbers);
  EXPECT_EQ((*file)->weights().head.type, DType::kF32) << "what is no fp8 stays in the file";
  EXPECT_EQ((*file)->own_bytes() % 2, 0u);
  EXPECT_GE((*file)->own_bytes(), size_t{2} * 2 * (3 * 192 * 160 + 2 * 192 * 64));
  (*file)->release(down);  // memory of our own: still there
  uint16_t bits = 0;
  std::memcpy(&bits, down.data + 2 * 7, 2);
  EXPECT_EQ(kernels::bfloat16_to_float(bits), opened[7]);
}

TEST_F(Fp8Checkpoint, RefusesWhatDoesNotFit) {
  write([](auto& entries) { named(entries, std::string(kDown) + "_scale_inv").name = "model.scales"; });
  EXPECT_THAT(refusal(),
              HasSubstr("down_proj.weight: is F8_E4M3, and model.layers.1.mlp.down_proj.weight_scale_inv"));
  write([](auto& entries) {
    Entry& scales = named(entries, std::string(kDown) + "_scale_inv");
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
