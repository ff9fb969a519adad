#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "worker/model/safetensors_file.h"

namespace baton::worker {

// Checkpoints in fp8 as Qwen3 and DeepSeek publish them: a matrix in F8_E4M3, and beside it a tensor of
// scales (F32 or BF16, NAME_scale_inv), one for each block of 128 x 128: weight = number * scale. A device
// that multiplies fp8 takes numbers and scales as they are; for every other one they are opened to bf16 in
// memory of our own. Example: 4,096 x 12,288 has 32 x 96 scales; opened it takes 96 MiB. Errors: "file:
// tensor: what".
inline constexpr std::string_view kFp8Scales = "_scale_inv";

inline bool is_fp8_matrix(const SafetensorsTensor& tensor) {
  return tensor.stored_type == "F8_E4M3" && tensor.shape.size() == 2;
}
// As floats: [rows / 128][cols / 128], rounded up. `scales`: null when the file has none.
absl::StatusOr<std::vector<float>> read_fp8_scales(const std::string& file, const SafetensorsTensor& matrix,
                                                   const SafetensorsTensor* scales);
// bf16 [rows][cols]. `scales`: null when the file has none.
absl::StatusOr<std::vector<std::byte>> open_fp8_matrix(const std::string& file,
                                                       const SafetensorsTensor& matrix,
                                                       const SafetensorsTensor* scales);

}  // namespace baton::worker
