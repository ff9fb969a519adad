#include "worker/kv_transfer/kv_reslice.h"

#include <algorithm>
#include <cstdint>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
namespace {

// Those that hold the same as `senders[i]`, itself with them.
std::vector<int> replicas(std::span<const KvPart> senders, size_t i) {
  std::vector<int> out;
  for (size_t j = 0; j < senders.size(); ++j)
    if (senders[j] == senders[i]) out.push_back(static_cast<int>(j));
  return out;
}

int64_t area(const KvPart& part) { return int64_t{part.layers()} * part.heads(); }

}  // namespace

KvPart kv_part(const ModelPart& part) {
  return {.first_layer = static_cast<int>(part.layers.begin),
          .end_layer = static_cast<int>(part.layers.end),
          .first_head = static_cast<int>(part.kv_heads.begin),
          .end_head = static_cast<int>(part.kv_heads.end)};
}

absl::StatusOr<std::vector<KvPart>> kv_parts(const SplitModel& model, const ParallelShape& shape) {
  std::vector<KvPart> out;
  for (int rank = 0; rank < shape.ranks(); ++rank) {
    ASSIGN_OR_RETURN(const ModelPart part, part_of(model, shape, rank));
    out.push_back(kv_part(part));
  }
  return out;
}

KvPart intersection(const KvPart& a, const KvPart& b) {
  const KvPart both{.first_layer = std::max(a.first_layer, b.first_layer),
                    .end_layer = std::min(a.end_layer, b.end_layer),
                    .first_head = std::max(a.first_head, b.first_head),
                    .end_head = std::min(a.end_head, b.end_head)};
  return both.empty() ? KvPart{} : both;
}

std::string to_string(const KvPart& p) {
  return cat("layers ", p.first_layer, "-", p.end_layer - 1, ", heads ", p.first_head, "-", p.end_head - 1);
}

absl::StatusOr<std::vector<KvSlice>> reslice(std::span<const KvPart> senders,
                                             std::span<const KvPart> receivers) {
  std::vector<KvSlice> out;
  for (size_t r = 0; r < receivers.size(); ++r) {
    int64_t missing = area(receivers[r]);
    if (missing == 0) return absl::InvalidArgumentError(cat("KV slices: receiver ", r, " holds nothing"));
    for (size_t s = 0; s < senders.size(); ++s) {
      const KvPart part = intersection(senders[s], receivers[r]);
      if (part.empty()) continue;
      const std::vector<int> equal = replicas(senders, s);
      if (equal[r % equal.size()] != static_cast<int>(s)) continue;
      out.push_back({.sender = static_cast<int>(s), .receiver = static_cast<int>(r), .part = part});
      missing -= area(part);
    }
    if (missing != 0)
      return absl::InvalidArgumentError(
          cat("KV slices: the senders do not hold ", to_string(receivers[r]), " once"));
  }
  return out;
}

PieceRun slice_run(const KvPart& own, const KvPart& slice, uint64_t head_bytes) {
  BATON_CHECK(intersection(own, slice) == slice, "a slice of what the rank does not hold");
  return {.offset = static_cast<uint64_t>(slice.first_head - own.first_head) * head_bytes,
          .bytes = static_cast<uint64_t>(slice.heads()) * head_bytes};
}

}  // namespace baton::worker
