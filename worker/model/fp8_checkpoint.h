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
// scales (F32 or BF16, NAME_scale_inv), one for each block of 128 x 128: weight = number * scale. Opened here
// to bf16 in memory of our own, so that every device computes with them. An fp8 device that quantises blocks
// of the same size finds the same numbers again where a block's largest is 448. Example: 4,096 x 12,288 has
// 32 x 96 scales and takes 96 MiB. Errors: "file: tensor: what".
inline constexpr std::string_view kFp8Scales = "_scale_inv";

inline bool is_fp8_matrix(const SafetensorsTensor& tensor) {
  return tensor.stored_type == "F8_E4M3" && tensor.shape.size() == 2;
}
// bf16 [rows][cols]. `scales`: null when the file has none.
absl::StatusOr<std::vector<std::byte>> open_fp8_matrix(const std::string& file,
                                                       const SafetensorsTensor& matrix,
                                                       const SafetensorsTensor* scales);

}  // namespace baton::worker
