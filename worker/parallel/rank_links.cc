#include "worker/parallel/rank_links.h"

#include "base/check.h"

namespace baton::worker {

RankLinks::RankLinks(const Parts& parts, const ParallelShape& shape) : parts_(parts), shape_(shape) {
  BATON_CHECK(parts.world.size() == shape.ranks() && parts.tensor.size() == shape.tensor);
  BATON_CHECK(parts.tensor.rank() == parts.world.rank() % shape.tensor);
  // Rank 0 would wait for this rank, and this one for rank 0.
  const bool reports = shape.pipeline > 1 && parts.world.rank() >= shape.ranks() - shape.tensor;
  BATON_CHECK(!reports || parts.outbox != nullptr, "a rank of the last stage wants an outbox");
}

template <class Call>
void RankLinks::attempt(const Call& call) {
  if (!status_.ok()) return;
  const Instant begun = parts_.clock.now();
  fence_.pass();
  status_ = call(begun + parts_.patience);
  fence_.pass();
  spent_ += parts_.clock.now() - begun;
}

void RankLinks::sum(std::span<float> values) {
  attempt([&](Instant deadline) { return parts_.tensor.all_reduce(values, deadline); });
}

void RankLinks::gather(std::span<const float> mine, std::span<float> all) {
  attempt([&](Instant deadline) {
    return parts_.tensor.all_gather(std::as_bytes(mine), std::as_writable_bytes(all), deadline);
  });
}

void RankLinks::gather(std::span<const std::byte> mine, std::span<std::byte> all) {
  attempt([&](Instant deadline) { return places().all_gather(mine, all, deadline); });
}

void RankLinks::to_next_place(std::span<const std::byte> bytes) {
  attempt([&](Instant deadline) { return places().send(places().rank() + 1, bytes, deadline); });
}

void RankLinks::from_previous_place(std::span<std::byte> bytes) {
  attempt([&](Instant deadline) { return places().receive(places().rank() - 1, bytes, deadline); });
}

void RankLinks::from_last_place(std::span<std::byte> bytes) {
  attempt([&](Instant deadline) { return places().broadcast(places().size() - 1, bytes, deadline); });
}

void RankLinks::send_on(std::span<const float> activations) {
  attempt([&](Instant deadline) {
    return parts_.world.send(rank() + shape_.tensor, std::as_bytes(activations), deadline);
  });
}

void RankLinks::receive(std::span<float> activations) {
  attempt([&](Instant deadline) {
    return parts_.world.receive(rank() - shape_.tensor, std::as_writable_bytes(activations), deadline);
  });
}

void RankLinks::report(std::span<const std::byte> bytes) {
  attempt([&](Instant deadline) {
    return parts_.outbox != nullptr ? parts_.outbox->post(bytes) : results().send(0, bytes, deadline);
  });
}

void RankLinks::hear(int rank, std::span<std::byte> bytes) {
  attempt([&](Instant deadline) { return results().receive(rank, bytes, deadline); });
}

void RankLinks::broadcast(std::span<std::byte> bytes, Instant deadline) {
  attempt([&](Instant) { return parts_.world.broadcast(0, bytes, deadline); });
}

void RankLinks::broadcast(std::span<std::byte> bytes) {
  attempt([&](Instant deadline) { return parts_.world.broadcast(0, bytes, deadline); });
}

}  // namespace baton::worker
