#include "tests/support/fp8_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/check.h"
#include "kernels/float8.h"
#include "worker/model/safetensors_file.h"

namespace baton::testing {
namespace {

constexpr char kConfig[] =
    R"(, "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})";

std::string file_of(const std::vector<StoredEntry>& entries) {
  std::string header = "{", data;
  for (const StoredEntry& e : entries) {
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

std::string content_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

}  // namespace

Fp8Matrix quantise_fp8(const std::vector<float>& w, int64_t rows, int64_t cols) {
  const int64_t across = (cols + 127) / 128;
  Fp8Matrix q{std::vector<uint8_t>(w.size()), std::vector<float>((rows + 127) / 128 * across)};
  for (int64_t i = 0; i < rows * cols; ++i) {
    float& scale = q.scales[i / cols / 128 * across + i % cols / 128];
    scale = std::max(scale, std::abs(w[i]) / kernels::kLargestE4m3);
  }
  for (int64_t i = 0; i < rows * cols; ++i)
    q.numbers[i] = kernels::float_to_e4m3(w[i] / q.scales[i / cols / 128 * across + i % cols / 128]);
  return q;
}

std::map<std::string, Fp8Matrix> write_fp8_checkpoint(
    const std::string& directory, const RandomModelOptions& options,
    const std::function<void(std::vector<StoredEntry>&)>& change) {
  const std::string file = directory + "/model.safetensors";
  BATON_CHECK(RandomModel(options).write_hugging_face(directory, kConfig));
  const std::string image = content_of(file);
  const auto tensors =
      worker::parse_safetensors("m", {reinterpret_cast<const std::byte*>(image.data()), image.size()});
  BATON_CHECK(tensors.ok());
  std::map<std::string, Fp8Matrix> stored;
  std::vector<StoredEntry> entries;
  for (const worker::SafetensorsTensor& t : *tensors) {
    const std::string bytes(reinterpret_cast<const char*>(t.data), t.bytes);
    if (t.shape.size() != 2 || !t.name.starts_with("model.layers.")) {
      entries.push_back({t.name, t.stored_type, t.shape, bytes});
      continue;
    }
    std::vector<float> values(t.bytes / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    const Fp8Matrix q = stored[t.name] = quantise_fp8(values, t.shape[0], t.shape[1]);
    entries.push_back({t.name, "F8_E4M3", t.shape, bytes_of(q.numbers)});
    entries.push_back({t.name + "_scale_inv",
                       "F32",
                       {(t.shape[0] + 127) / 128, (t.shape[1] + 127) / 128},
                       bytes_of(q.scales)});
  }
  change(entries);
  const std::string out = file_of(entries);
  std::ofstream(file, std::ios::binary).write(out.data(), static_cast<std::streamsize>(out.size()));
  return stored;
}

}  // namespace baton::testing
