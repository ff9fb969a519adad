#include "transport/collectives/shm_communicator.h"

#include <algorithm>
#include <cstring>

#include "base/cat.h"
#include "base/check.h"
#include "transport/collectives/rank_sum.h"
#include "transport/collectives/shm_ring.h"

namespace baton {
namespace {

constexpr size_t kFlatFloats = (size_t{256} << 10) / sizeof(float);
constexpr size_t kSlotFloats = ShmRegion::kSlotBytes / sizeof(float);

enum class Operation : uint64_t { kBarrier = 1, kReduceFlat, kReduceShares, kGather };

class ShmCommunicator final : public Communicator {
 public:
  explicit ShmCommunicator(ShmSeat seat);

  int rank() const override { return watch_.rank(); }
  int size() const override { return watch_.size(); }
  std::string lane() const override { return "shm"; }
  absl::Status all_reduce(std::span<float> values, Instant deadline) override;
  absl::Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                          Instant deadline) override;
  absl::Status broadcast(int root, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status send(int to, std::span<const std::byte> bytes, Instant deadline) override;
  absl::Status receive(int from, std::span<std::byte> bytes, Instant deadline) override;
  absl::Status barrier(Instant deadline) override;
  absl::Status alive() override { return watch_.check_now(); }
  void interrupt(int culprit) override { watch_.interrupt(culprit); }
  int culprit() const override { return watch_.culprit(); }

 private:
  // What every rank says about its slot of this parity.
  void begin(Operation operation, size_t bytes);
  // Publishes the next phase and waits until all ranks have.
  absl::Status meet(Instant deadline);
  absl::Status reduce_flat(std::span<float> values, Instant deadline);
  absl::Status reduce_shares(std::span<float> values, Instant deadline);
  // Adds [from, from + count) of all slots into `out`.
  void add_slots(size_t from, size_t count, float* out);
  float* slot(int rank) { return reinterpret_cast<float*>(watch_.region().slot(rank, parity_)); }

  ShmWatch watch_;
  // Why two slots are enough: a rank that has met in operation k has read nothing of operation k - 1 any
  // more, because everybody published k only after it was done with k - 1.
  int parity_ = 0;
  uint32_t phase_ = 0;
  uint64_t tag_ = 0;
  std::vector<ShmRingWriter> writers_;     // by rank; own place: to all others
  std::vector<ShmRingReader> messages_;    // by rank; own place unused
  std::vector<ShmRingReader> broadcasts_;  // by root; own place unused
};

ShmCommunicator::ShmCommunicator(ShmSeat seat) : watch_(std::move(seat)) {
  for (int r = 0; r < size(); ++r) {
    writers_.emplace_back(watch_, r);
    messages_.emplace_back(watch_, r, rank());
    broadcasts_.emplace_back(watch_, r, r);
  }
}

void ShmCommunicator::begin(Operation operation, size_t bytes) {
  parity_ ^= 1;
  tag_ = static_cast<uint64_t>(operation) << 56 | bytes;
  watch_.region().line(rank()).tag[parity_] = tag_;
}

absl::Status ShmCommunicator::meet(Instant deadline) {
  ShmRegion& region = watch_.region();
  region.line(rank()).phase.publish(++phase_);
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    RETURN_IF_ERROR(watch_.await(region.line(r).phase, phase_, r, deadline));
    if (region.line(r).tag[parity_] != tag_)
      return watch_.disagree(r, "its collective is another one, or has another size");
  }
  return absl::OkStatus();
}

absl::Status ShmCommunicator::all_reduce(std::span<float> values, Instant deadline) {
  RETURN_IF_ERROR(watch_.check());
  if (values.size() <= kFlatFloats) return reduce_flat(values, deadline);
  while (!values.empty()) {
    const auto chunk = values.first(std::min(values.size(), kSlotFloats));
    RETURN_IF_ERROR(reduce_shares(chunk, deadline));
    values = values.subspan(chunk.size());
  }
  return absl::OkStatus();
}

absl::Status ShmCommunicator::reduce_flat(std::span<float> values, Instant deadline) {
  begin(Operation::kReduceFlat, values.size_bytes());
  std::ranges::copy(values, slot(rank()));
  RETURN_IF_ERROR(meet(deadline));
  add_slots(0, values.size(), values.data());
  return absl::OkStatus();
}

absl::Status ShmCommunicator::reduce_shares(std::span<float> values, Instant deadline) {
  const size_t share = (values.size() + size() - 1) / size();
  const auto begin_of = [&](int r) { return std::min(values.size(), share * r); };
  begin(Operation::kReduceShares, values.size_bytes());
  std::ranges::copy(values, slot(rank()));
  RETURN_IF_ERROR(meet(deadline));
  // My share goes back into my slot: nobody else reads that part of it.
  const size_t from = begin_of(rank());
  const size_t count = begin_of(rank() + 1) - from;
  add_slots(from, count, values.data() + from);
  std::copy_n(values.data() + from, count, slot(rank()) + from);
  RETURN_IF_ERROR(meet(deadline));
  for (int r = 0; r < size(); ++r)
    if (r != rank())
      std::copy_n(slot(r) + begin_of(r), begin_of(r + 1) - begin_of(r), values.data() + begin_of(r));
  return absl::OkStatus();
}

void ShmCommunicator::add_slots(size_t from, size_t count, float* out) {
  const float* parts[ShmRegion::kMostRanks];
  for (int r = 0; r < size(); ++r) parts[r] = slot(r) + from;
  rank_sum({parts, static_cast<size_t>(size())}, out, count);
}

absl::Status ShmCommunicator::all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                         Instant deadline) {
  BATON_CHECK(all.size() == mine.size() * size());
  RETURN_IF_ERROR(watch_.check());
  for (size_t from = 0; from < mine.size() || from == 0; from += ShmRegion::kSlotBytes) {
    const auto piece = mine.subspan(from, std::min(mine.size() - from, ShmRegion::kSlotBytes));
    begin(Operation::kGather, mine.size());
    // memcpy: the algorithms of the standard library copy std::byte one by one here.
    if (!piece.empty()) std::memcpy(slot(rank()), piece.data(), piece.size());
    RETURN_IF_ERROR(meet(deadline));
    for (int r = 0; r < size() && !piece.empty(); ++r)
      std::memcpy(all.data() + r * mine.size() + from, slot(r), piece.size());
  }
  return absl::OkStatus();
}

absl::Status ShmCommunicator::broadcast(int root, std::span<std::byte> bytes, Instant deadline) {
  RETURN_IF_ERROR(root == rank() ? watch_.check() : watch_.whole());
  return root == rank() ? writers_[root].write(bytes, deadline) : broadcasts_[root].read(bytes, deadline);
}

absl::Status ShmCommunicator::send(int to, std::span<const std::byte> bytes, Instant deadline) {
  BATON_CHECK(to != rank());
  RETURN_IF_ERROR(watch_.whole());
  return writers_[to].write(bytes, deadline);
}

absl::Status ShmCommunicator::receive(int from, std::span<std::byte> bytes, Instant deadline) {
  BATON_CHECK(from != rank());
  RETURN_IF_ERROR(watch_.whole());
  return messages_[from].read(bytes, deadline);
}

absl::Status ShmCommunicator::barrier(Instant deadline) {
  RETURN_IF_ERROR(watch_.check());
  begin(Operation::kBarrier, 0);
  return meet(deadline);
}

}  // namespace

std::unique_ptr<Communicator> shm_communicator(ShmSeat seat) {
  return std::make_unique<ShmCommunicator>(std::move(seat));
}

}  // namespace baton
