#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/dtype.h"
#include "base/status.h"
#include "worker/model/mapped_file.h"

namespace baton::worker {

// One tensor of a safetensors file. `type` is empty for element types that weights cannot have (I64, F64, F8
// ...): such a tensor may lie in the file, but cannot be used.
struct SafetensorsTensor {
  std::string name;
  std::optional<DType> type;
  std::string stored_type;     // "BF16"
  std::vector<int64_t> shape;  // slowest first: {rows, cols}
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

// Reads the header of a safetensors image: u64 length N, N bytes of JSON {name: {dtype, shape,
// data_offsets}}, data. Checks length (at most 16 MiB), JSON depth, every field, that shape x element size is
// the stored length, and that the tensors cover the data without gap or overlap. `file` is named in errors:
// "file: tensor: what". Result sorted by position in the file; `data` points into `image`.
absl::StatusOr<std::vector<SafetensorsTensor>> parse_safetensors(const std::string& file,
                                                                 std::span<const std::byte> image);

// The weights of a Hugging Face directory: model.safetensors, or the shards that model.safetensors.index.json
// names. Mapped read-only; immutable after open(). Thread: any. Owns the mappings. Errors: kInvalidArgument
// "file: tensor: what"; kNotFound when there is neither file.
class SafetensorsFiles {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFiles>> open(const std::string& directory);

  std::span<const SafetensorsTensor> tensors() const { return tensors_; }
  // nullptr when there is no such tensor.
  const SafetensorsTensor* find(std::string_view name) const;
  // The file that holds tensors()[i].
  const std::string& file_of(size_t i) const { return paths_[file_index_[i]]; }
  size_t total_bytes() const;

 private:
  SafetensorsFiles() = default;
  absl::Status add_shard(const std::string& path);
  absl::Status open_index(const std::string& directory, const std::string& index_path);

  std::vector<std::unique_ptr<MappedFile>> maps_;
  std::vector<std::string> paths_;
  std::vector<SafetensorsTensor> tensors_;
  std::vector<size_t> file_index_;  // parallel to tensors_
  absl::flat_hash_map<std::string, size_t> by_name_;
};

}  // namespace baton::worker
