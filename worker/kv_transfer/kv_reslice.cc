#include "worker/kv_transfer/kv_reslice.h"

#include <algorithm>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
namespace {

// One receiver's needs in one run of layers and heads that no sender's border cuts: which senders have it.
std::vector<int> holders(std::span<const KvPart> senders, const KvPart& cell) {
  std::vector<int> out;
  for (size_t i = 0; i < senders.size(); ++i)
    if (intersection(senders[i], cell) == cell) out.push_back(static_cast<int>(i));
  return out;
}

// The borders of all senders inside [first, end), ascending, with both ends.
std::vector<int> borders(std::span<const KvPart> senders, int first, int end, int KvPart::* from,
                         int KvPart::* to) {
  std::vector<int> out = {first, end};
  for (const KvPart& s : senders)
    for (const int at : {s.*from, s.*to})
      if (at > first && at < end) out.push_back(at);
  std::ranges::sort(out);
  out.erase(std::ranges::unique(out).begin(), out.end());
  return out;
}

}  // namespace

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
    const KvPart& want = receivers[r];
    if (want.empty()) return absl::InvalidArgumentError(cat("KV slices: receiver ", r, " holds nothing"));
    const auto layers =
        borders(senders, want.first_layer, want.end_layer, &KvPart::first_layer, &KvPart::end_layer);
    const auto heads =
        borders(senders, want.first_head, want.end_head, &KvPart::first_head, &KvPart::end_head);
    for (size_t l = 0; l + 1 < layers.size(); ++l)
      for (size_t h = 0; h + 1 < heads.size(); ++h) {
        const KvPart cell{layers[l], layers[l + 1], heads[h], heads[h + 1]};
        const std::vector<int> who = holders(senders, cell);
        if (who.empty())
          return absl::InvalidArgumentError(cat("KV slices: no sender holds ", to_string(cell)));
        out.push_back({.sender = who[r % who.size()], .receiver = static_cast<int>(r), .part = cell});
      }
  }
  return out;
}

PieceRun slice_run(const KvPart& own, const KvPart& slice, uint64_t head_bytes) {
  BATON_CHECK(intersection(own, slice) == slice, "a slice of what the rank does not hold");
  return {.offset = static_cast<uint64_t>(slice.first_head - own.first_head) * head_bytes,
          .bytes = static_cast<uint64_t>(slice.heads()) * head_bytes};
}

}  // namespace baton::worker
