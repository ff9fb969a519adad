#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/gguf_file.h"
#include "base/status.h"
#include "worker/model/model_spec.h"
#include "worker/model/safetensors_file.h"
#include "worker/model/weights.h"

namespace baton::worker {

// A model as it lies on disk: one GGUF file, or a Hugging Face directory (config.json + safetensors). open()
// reads the description, gives every tensor its role and refuses what does not fit; weights stay in the
// mapped file. Owns the mappings: the backend's linears and embeddings borrow from them, so a ModelFile
// outlives its LlamaModel. Immutable after open(). Thread: any. Errors: "file: tensor or key: what".
//
// hash(): 32 hexadecimal digits that are equal for equal files: SipHash-128 over the spec, every tensor's
// name, type and shape, and of every tensor three samples of up to 4 KiB (start, middle, end). Cheap (3 pages
// a tensor, not the whole file) and deterministic: it tells different models and damaged copies apart, but is
// no proof of integrity (a flipped bit between the samples goes unseen). The two containers of one model have
// different hashes.
class ModelFile {
 public:
  // Matrices of layers that a checkpoint has in fp8: for a device that multiplies them so, or opened to bf16.
  enum class Fp8Matrices : uint8_t { kOpened, kKept };
  static absl::StatusOr<std::unique_ptr<ModelFile>> open(const std::string& path,
                                                         Fp8Matrices fp8 = Fp8Matrices::kOpened);

  const std::string& path() const { return path_; }
  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const std::string& hash() const { return hash_; }
  // Bytes of the files, all mapped.
  size_t mapped_bytes() const;
  // Of memory beside them, as long as this lives: tensors that were moved, matrices opened from fp8 or their
  // scales.
  size_t own_bytes() const;
  // Whether some matrices are kept in fp8.
  bool keeps_fp8() const { return !scales_.empty(); }
  // The matrix was repacked: its pages leave this process (a look-up brings them back one by one).
  void release(const kernels::WeightView& matrix) const;
  // The container, for who needs more than weights (vocabulary, chat template); nullptr for a directory.
  const GgufFile* gguf() const { return gguf_.get(); }

 private:
  ModelFile() = default;
  absl::Status open_gguf();
  absl::Status open_directory(Fp8Matrices fp8);
  absl::StatusOr<std::vector<StoredTensor>> directory_tensors(Fp8Matrices fp8);
  absl::Status add_fp8_matrix(const SafetensorsTensor& tensor, Fp8Matrices fp8, StoredTensor& stored);
  // `stored`: as the file has them, whatever `tensors` became.
  absl::Status finish(WeightNames names, const std::vector<StoredTensor>& tensors,
                      std::vector<StoredTensor> stored);

  std::string path_;
  std::unique_ptr<GgufFile> gguf_;
  std::unique_ptr<SafetensorsFiles> safetensors_;
  // Of a safetensors file: tensors that lie at odd addresses in it, and fp8 matrices in bf16
  // (fp8_checkpoint.h).
  std::vector<std::vector<std::byte>> own_;
  std::vector<std::vector<float>> scales_;  // of fp8 matrices that are kept
  ModelSpec spec_;
  ModelWeights weights_;
  std::string hash_;
};

}  // namespace baton::worker
