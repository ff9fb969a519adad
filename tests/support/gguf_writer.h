#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"

namespace baton::testing {

// Writes GGUF v3 for tests: small models with made weights, and malformed files. Nothing is checked: what is
// added is written. Keys and tensors keep their order; tensor data is laid out with `alignment` in between.
//   GgufWriter w;
//   w.add("general.architecture", "llama").add_u32("llama.block_count", 2);
//   w.add_floats("token_embd.weight", {64, 512}, values);
//   w.save(path);
class GgufWriter {
 public:
  GgufWriter& add(std::string_view key, std::string_view value) {
    begin(key, 8);
    put_string(pairs_, value);
    return *this;
  }
  GgufWriter& add_u8(std::string_view key, uint8_t value) { return scalar(key, 0, value); }
  GgufWriter& add_u32(std::string_view key, uint32_t value) { return scalar(key, 4, value); }
  GgufWriter& add_i32(std::string_view key, int32_t value) { return scalar(key, 5, value); }
  GgufWriter& add_u64(std::string_view key, uint64_t value) { return scalar(key, 10, value); }
  GgufWriter& add_i64(std::string_view key, int64_t value) { return scalar(key, 11, value); }
  GgufWriter& add_f32(std::string_view key, float value) { return scalar(key, 6, value); }
  GgufWriter& add_f64(std::string_view key, double value) { return scalar(key, 12, value); }
  GgufWriter& add_bool(std::string_view key, bool value) {
    return scalar(key, 7, static_cast<uint8_t>(value));
  }
  GgufWriter& add_strings(std::string_view key, std::span<const std::string> values) {
    begin_array(key, 8, values.size());
    for (const auto& v : values) put_string(pairs_, v);
    return *this;
  }
  GgufWriter& add_i32s(std::string_view key, std::span<const int32_t> values) {
    return array(key, 5, values);
  }
  GgufWriter& add_u64s(std::string_view key, std::span<const uint64_t> values) {
    return array(key, 10, values);
  }
  GgufWriter& add_f32s(std::string_view key, std::span<const float> values) { return array(key, 6, values); }
  // A pair of any value type: `value` as it lies in the file, type number in front excluded.
  GgufWriter& add_raw(std::string_view key, uint32_t type, std::string_view value) {
    begin(key, type);
    pairs_.append(value);
    return *this;
  }

  // dims: fastest first {cols, rows}. `data`: the bytes as they lie in the file.
  GgufWriter& add_tensor(std::string_view name, std::vector<uint64_t> dims, DType type,
                         std::string_view data) {
    const uint64_t offset = (data_.size() + alignment_ - 1) / alignment_ * alignment_;
    data_.resize(offset);
    data_.append(data);
    return add_tensor_entry(name, dims, static_cast<uint32_t>(type), offset);
  }
  GgufWriter& add_floats(std::string_view name, std::vector<uint64_t> dims, std::span<const float> values) {
    return add_tensor(name, std::move(dims), DType::kF32,
                      {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  // An entry in the tensor list without data: any type number, any offset.
  GgufWriter& add_tensor_entry(std::string_view name, std::span<const uint64_t> dims, uint32_t type,
                               uint64_t offset) {
    put_string(entries_, name);
    put(entries_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) put(entries_, d);
    put(entries_, type);
    put(entries_, offset);
    ++tensors_;
    return *this;
  }

  // For malformed headers, and for files with another general.alignment (the key itself is the caller's to
  // add).
  GgufWriter& set_version(uint32_t version) { return version_ = version, *this; }
  GgufWriter& set_counts(uint64_t tensors, uint64_t pairs) {
    return tensors_ = tensors, pair_count_ = pairs, *this;
  }
  GgufWriter& set_alignment(uint64_t alignment) { return alignment_ = alignment, *this; }

  std::string bytes() const {
    std::string out = "GGUF";
    put(out, version_);
    put(out, tensors_);
    put(out, pair_count_);
    out += pairs_;
    out += entries_;
    if (!data_.empty()) out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
    return out + data_;
  }
  bool save(const std::string& path) const {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    const std::string all = bytes();
    out.write(all.data(), static_cast<std::streamsize>(all.size()));
    return out.good();
  }

 private:
  template <class T>
  static void put(std::string& out, T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    out.append(raw, sizeof(T));
  }
  static void put_string(std::string& out, std::string_view value) {
    put(out, static_cast<uint64_t>(value.size()));
    out.append(value);
  }
  void begin(std::string_view key, uint32_t type) {
    put_string(pairs_, key);
    put(pairs_, type);
    ++pair_count_;
  }
  void begin_array(std::string_view key, uint32_t element_type, uint64_t count) {
    begin(key, 9);
    put(pairs_, element_type);
    put(pairs_, count);
  }
  template <class T>
  GgufWriter& scalar(std::string_view key, uint32_t type, T value) {
    begin(key, type);
    put(pairs_, value);
    return *this;
  }
  template <class T>
  GgufWriter& array(std::string_view key, uint32_t type, std::span<const T> values) {
    begin_array(key, type, values.size());
    for (const T v : values) put(pairs_, v);
    return *this;
  }

  uint32_t version_ = 3;
  uint64_t tensors_ = 0;
  uint64_t pair_count_ = 0;
  uint64_t alignment_ = 32;
  std::string pairs_;
  std::string entries_;
  std::string data_;
};

}  // namespace baton::testing
