#pragma once

#include <vector>

#include "base/status.h"
#include "kernels/backend.h"

namespace baton::kernels {

// Whether a device computes what it should, before it serves: a layer of a small random model, stage by stage
// (norm and linear; feed-forward; attention), against the reference backend, and every row once more in
// smaller batches, with the same bits. `rows` of 600 reaches every kernel that a batch size chooses.
// Takes about a second. Thread: the caller's; the backend is used up: its attention and KV pool are the
// check's. Errors: what the backend refuses; kInternal names the stage, the batch and a value that differs.
struct SelfCheck {
  int head_dim = 64;
  KvType kv = KvType::kBF16;
  bool batches = true;  // false: bits may depend on the batch (numerics fastest)
  int rows = 600;
};
// The shapes of its matrices, without weights: for who prepares something for each of them.
std::vector<LinearSpec> self_check_linears(int head_dim);
absl::Status check_against_reference(Backend& backend, const SelfCheck& check);

}  // namespace baton::kernels
