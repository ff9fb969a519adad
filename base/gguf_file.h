#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/dtype.h"
#include "base/status.h"

namespace baton {

// A GGUF v2/v3 file (ggml docs/gguf.md), mapped read-only. Everything is checked against the file's size at
// open(): counts, lengths, types, offsets, overlaps, alignment. Coordinator (vocabulary) and worker (weights)
// both read it. Strings and tensor data point into the file: they live as long as this object. A file that
// somebody truncates while it is mapped kills the process (SIGBUS), as with every mapped file: replace model
// files by rename. Immutable after open(). Thread: any. Errors: kInvalidArgument "file: where: what"; errno's
// code when it cannot be read.
class GgufFile {
 public:
  struct Array;
  using Value = std::variant<uint64_t, int64_t, double, bool, std::string_view, std::shared_ptr<Array>>;
  struct Array {
    std::vector<int64_t> integers;  // any integer or bool element type
    std::vector<double> floats;     // f32, f64
    std::vector<std::string_view> strings;
  };
  struct Tensor {
    std::string_view name;
    DType type = DType::kF32;
    std::vector<int64_t> dims;  // fastest first: {cols, rows}
    const std::byte* data = nullptr;
    size_t bytes = 0;
  };

  static absl::StatusOr<std::unique_ptr<GgufFile>> open(const std::string& path);
  // The same checks on bytes in memory; `name` stands in errors where the path would.
  static absl::StatusOr<std::unique_ptr<GgufFile>> from_bytes(std::string name, std::string bytes);
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::string& path() const { return path_; }
  const Value* find(std::string_view key) const;
  // nullopt when absent or of another kind. Integers of any width convert; a float never becomes an integer.
  std::optional<int64_t> integer(std::string_view key) const;
  // Floats, and integers as floats.
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key) const;
  const Array* array(std::string_view key) const;
  const Tensor* tensor(std::string_view name) const;
  std::span<const Tensor> tensors() const { return tensors_; }
  size_t file_bytes() const { return map_bytes_; }

 private:
  GgufFile() = default;
  friend class GgufParser;
  std::string path_;
  std::string owned_;  // from_bytes(); empty for a mapped file
  bool mapped_ = false;
  const std::byte* map_ = nullptr;
  size_t map_bytes_ = 0;
  absl::flat_hash_map<std::string_view, Value> values_;
  std::vector<Tensor> tensors_;
  absl::flat_hash_map<std::string_view, size_t> tensor_index_;
};

}  // namespace baton
