#include "worker/model/logit_changes.h"

#include <limits>

namespace baton::worker {

using kernels::LogitChange;

void change_logits(std::span<const LogitChange> changes, const Penalties& penalties, const Range& columns,
                   std::span<float> logits) {
  for (const LogitChange& change : changes) {
    if (change.id < columns.begin || change.id >= columns.end) continue;
    float& logit = logits[static_cast<size_t>(change.id - columns.begin)];
    if ((change.flags & LogitChange::kBiased) != 0) logit += change.bias;
    if ((change.flags & LogitChange::kMasked) != 0) logit = -std::numeric_limits<float>::infinity();
    if ((change.flags & LogitChange::kSeen) != 0) logit = penalised(logit, change.count, penalties);
  }
}

}  // namespace baton::worker
