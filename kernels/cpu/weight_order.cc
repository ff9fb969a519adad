#include "kernels/cpu/weight_order.h"

#include <algorithm>

namespace baton::kernels::cpu {

void WeightOrder::begin_step() {
  next_ = 0;
  ahead_.pieces = pieces_.data();  // make_room() moves them
  ahead_.reading = ahead_.asking = 0;
  ahead_.asked = ahead_.read_end = 0;
}

WeightsAhead* WeightOrder::enter(const std::byte* begin, int64_t bytes) {
  if (next_ == pieces_.capacity()) return nullptr;
  if (next_ == pieces_.size() || pieces_[next_].begin != begin || pieces_[next_].bytes != bytes)
    learn(begin, bytes);
  ahead_.reading = static_cast<int>(next_);
  ahead_.read_end = pieces_[next_].start + bytes;
  ++next_;
  return &ahead_;
}

// Another piece than in the step before, which tells nothing more about this one.
void WeightOrder::learn(const std::byte* begin, int64_t bytes) {
  pieces_.resize(next_);
  const int64_t start = pieces_.empty() ? 0 : pieces_.back().start + pieces_.back().bytes;
  pieces_.push_back({begin, bytes, start});
  ahead_.pieces = pieces_.data();
  ahead_.count = static_cast<int>(pieces_.size());
  if (ahead_.asking < static_cast<int>(next_)) return;
  ahead_.asking = static_cast<int>(next_);
  ahead_.asked = 0;
}

}  // namespace baton::kernels::cpu
