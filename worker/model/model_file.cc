#include "worker/model/model_file.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "base/block_hash.h"
#include "base/cat.h"
#include "kernels/dequantize.h"
#include "kernels/weight_slice.h"
#include "worker/model/fp8_checkpoint.h"
#include "worker/model/mapped_file.h"

namespace baton::worker {
namespace {

constexpr size_t kSampleBytes = 4096;
constexpr size_t kMaxConfigBytes = size_t{4} << 20;

// Chains SipHash-128: the digest so far is the key of the next piece.
class ContentHash {
 public:
  void add(std::string_view bytes) {
    const BlockHash h = root_hash(key_, bytes);
    key_ = {h.lo, h.hi};
  }
  void add_samples(std::span<const std::byte> data) {
    const size_t take = std::min(kSampleBytes, data.size());
    for (const size_t start : {size_t{0}, (data.size() - take) / 2, data.size() - take})
      add(std::string_view(reinterpret_cast<const char*>(data.data()) + start, take));
  }
  std::string text() const {
    char out[33];
    std::snprintf(out, sizeof(out), "%016llx%016llx", static_cast<unsigned long long>(key_.k1),
                  static_cast<unsigned long long>(key_.k0));
    return out;
  }

 private:
  HashKey key_{0x626174306e6d6f64, 0x656c206861736831};  // any constant
};

bool is_scale_of_fp8(const SafetensorsFiles& files, const SafetensorsTensor& tensor) {
  if (!tensor.name.ends_with(kFp8Scales)) return false;
  const SafetensorsTensor* of =
      files.find(std::string_view(tensor.name).substr(0, tensor.name.size() - kFp8Scales.size()));
  return of != nullptr && is_fp8_matrix(*of);
}

std::string model_hash(const ModelSpec& spec, std::vector<StoredTensor> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  ContentHash hash;
  hash.add(spec_text(spec));
  for (const StoredTensor& tensor : tensors) {
    std::string head =
        cat(tensor.name, " ", tensor.type ? static_cast<int>(*tensor.type) : -1, " ", tensor.bytes);
    for (const int64_t dim : tensor.shape) head += cat(" ", dim);
    hash.add(head);
    hash.add_samples({tensor.data, tensor.bytes});
  }
  return hash.text();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::open(const std::string& path, Fp8Matrices fp8) {
  std::unique_ptr<ModelFile> model(new ModelFile());
  model->path_ = path;
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(cat(path, ": there is no such model"));
  RETURN_IF_ERROR(std::filesystem::is_directory(status) ? model->open_directory(fp8) : model->open_gguf());
  return model;
}

absl::Status ModelFile::open_gguf() {
  ASSIGN_OR_RETURN(gguf_, GgufFile::open(path_));
  ASSIGN_OR_RETURN(spec_, spec_from_gguf(*gguf_));
  std::vector<StoredTensor> tensors;
  tensors.reserve(gguf_->tensors().size());
  for (const GgufFile::Tensor& tensor : gguf_->tensors()) {
    StoredTensor stored{
        tensor.name, tensor.type, {tensor.dims.rbegin(), tensor.dims.rend()}, tensor.data, tensor.bytes};
    tensors.push_back(std::move(stored));
  }
  return finish(WeightNames::kGguf, tensors, tensors);
}

absl::Status ModelFile::open_directory(Fp8Matrices fp8) {
  const std::string config = path_ + "/config.json";
  ASSIGN_OR_RETURN(const std::string text, read_text_file(config, kMaxConfigBytes));
  ASSIGN_OR_RETURN(spec_, spec_from_config(config, text));
  ASSIGN_OR_RETURN(safetensors_, SafetensorsFiles::open(path_));
  ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, directory_tensors(fp8));
  std::vector<StoredTensor> stored;
  for (const SafetensorsTensor& t : safetensors_->tensors())
    stored.push_back({t.name, t.type, t.shape, t.data, t.bytes});
  return finish(WeightNames::kHuggingFace, tensors, std::move(stored));
}

absl::StatusOr<std::vector<StoredTensor>> ModelFile::directory_tensors(Fp8Matrices fp8) {
  std::vector<StoredTensor> tensors;
  tensors.reserve(safetensors_->tensors().size());
  for (const SafetensorsTensor& tensor : safetensors_->tensors()) {
    StoredTensor stored{tensor.name, tensor.type, tensor.shape, tensor.data, tensor.bytes};
    if (is_fp8_matrix(tensor)) {
      RETURN_IF_ERROR(add_fp8_matrix(tensor, fp8, stored));
    } else if (is_scale_of_fp8(*safetensors_, tensor)) {
      continue;
    } else if (tensor.type && reinterpret_cast<uintptr_t>(tensor.data) % traits_of(*tensor.type).bytes != 0) {
      // The header may have any length, so data may lie at any address; kernels read whole elements.
      stored.data = own_.emplace_back(tensor.data, tensor.data + tensor.bytes).data();
    }
    tensors.push_back(std::move(stored));
  }
  return tensors;
}

// Embedding and head are multiplied in bf16 on every device.
absl::Status ModelFile::add_fp8_matrix(const SafetensorsTensor& tensor, Fp8Matrices fp8,
                                       StoredTensor& stored) {
  const SafetensorsTensor* scales = safetensors_->find(cat(tensor.name, kFp8Scales));
  if (fp8 == Fp8Matrices::kKept && tensor.name.starts_with("model.layers.")) {
    ASSIGN_OR_RETURN(std::vector<float> values, read_fp8_scales(path_, tensor, scales));
    stored.type = DType::kF8E4M3;
    stored.block_scales = scales_.emplace_back(std::move(values)).data();
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::vector<std::byte> opened, open_fp8_matrix(path_, tensor, scales));
  stored.type = DType::kBF16, stored.bytes = opened.size();
  stored.data = own_.emplace_back(std::move(opened)).data();
  return absl::OkStatus();
}

size_t ModelFile::mapped_bytes() const {
  return gguf_ != nullptr ? gguf_->file_bytes() : safetensors_->total_bytes();
}

size_t ModelFile::own_bytes() const {
  size_t bytes = 0;
  for (const auto& memory : own_) bytes += memory.size();
  for (const auto& scales : scales_) bytes += scales.size() * sizeof(float);
  return bytes;
}

void ModelFile::release(const kernels::WeightView& matrix) const {
  for (const auto& memory : own_)
    if (matrix.data >= memory.data() && matrix.data < memory.data() + memory.size()) return;
  const auto bytes = kernels::row_bytes(matrix.type, matrix.cols);
  if (!bytes.ok()) return;
  // Of some columns, what lies between the rows as well: other ranks on this machine have mappings of theirs.
  const size_t before_last = kernels::row_stride(matrix) * static_cast<size_t>(matrix.rows - 1);
  release_mapped_pages({matrix.data, before_last + *bytes});
}

absl::Status ModelFile::finish(WeightNames names, const std::vector<StoredTensor>& tensors,
                               std::vector<StoredTensor> stored) {
  ASSIGN_OR_RETURN(weights_, bind_weights(spec_, path_, names, tensors));
  hash_ = model_hash(spec_, std::move(stored));
  return absl::OkStatus();
}

}  // namespace baton::worker
