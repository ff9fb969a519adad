#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace baton {

// A strong integer: no implicit conversion, no arithmetic. `Tag` makes each kind its own type and gives
// the letter it is printed with: b42 is block 42, w3 worker 3. A default-made id is 0.
template <class Tag, class Rep>
class Id {
 public:
  using rep = Rep;
  constexpr Id() = default;
  constexpr explicit Id(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(Id, Id) = default;
  template <class H>
  friend H AbslHashValue(H h, Id id) {
    return H::combine(std::move(h), id.value_);
  }

 private:
  Rep value_ = 0;
};

template <class Tag, class Rep>
std::string to_string(Id<Tag, Rep> id) {
  return std::string(Tag::kPrefix) + std::to_string(id.value());
}

struct RequestTag {
  static constexpr const char* kPrefix = "r";
};
struct SequenceTag {
  static constexpr const char* kPrefix = "s";
};
struct BlockTag {
  static constexpr const char* kPrefix = "b";
};
struct TransferTag {
  static constexpr const char* kPrefix = "t";
};
struct StepTag {
  static constexpr const char* kPrefix = "step";
};
struct IncarnationTag {
  static constexpr const char* kPrefix = "i";
};

// Unique among the requests of one coordinator process; the high 24 bits are random per process, so that two
// coordinators do not collide on a worker.
using RequestId = Id<RequestTag, uint64_t>;
// Unique inside one worker incarnation.
using SequenceId = Id<SequenceTag, uint64_t>;
// Index of a KV block inside one worker's pool: 0 .. blocks_total - 1.
using BlockId = Id<BlockTag, uint32_t>;
// Given by the coordinator, unique like a request id. One transfer = one prompt's KV from one worker to
// another.
using TransferId = Id<TransferTag, uint64_t>;
using StepId = Id<StepTag, uint64_t>;
// One life of one worker process; a later life has a larger number (milliseconds of wall time at its start).
using Incarnation = Id<IncarnationTag, uint64_t>;

// Vocabulary index. A plain integer: it is data, computed with and stored by the million.
using TokenId = int32_t;

}  // namespace baton

template <class Tag, class Rep>
struct std::hash<baton::Id<Tag, Rep>> {
  size_t operator()(baton::Id<Tag, Rep> id) const noexcept { return std::hash<Rep>{}(id.value()); }
};
