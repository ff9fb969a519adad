#pragma once

#include <span>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/communicator.h"
#include "worker/parallel/model_part.h"
#include "worker/parallel/order_fence.h"
#include "worker/parallel/result_outbox.h"

namespace baton::worker {

// What one rank says to the others in the course of a step. `world` joins all ranks of the group, `tensor`
// those of one stage; with one stage they may be the same communicator. Every wait ends after `patience`.
//
// The first error is kept and everything after it does nothing, so that the threads of a backend come to the
// end of a step whatever happens; the step's results are then worthless: status() says so, for ever, since a
// broken communicator stays broken.
//
// Thread: one at a time (the thread of a backend for which leads() is true). Borrows all its parts.
class RankLinks {
 public:
  struct Parts {
    Communicator& world;
    Communicator& tensor;
    const Clock& clock;
    Duration patience;
    // A pipeline's way of logits back to rank 0, apart from `world` (ResultOutbox says why): all ranks once
    // more, and on ranks of the last stage the outbox that sends there.
    Communicator* results = nullptr;
    ResultOutbox* outbox = nullptr;
  };
  RankLinks(const Parts& parts, const ParallelShape& shape);

  int rank() const { return parts_.world.rank(); }
  const ParallelShape& shape() const { return shape_; }  // its stage_layers do not matter here
  bool alone() const { return shape_.ranks() == 1; }

  // Among the ranks of this stage: values[i] = the sum of theirs, by the fixed tree.
  void sum(std::span<float> values);
  // all = theirs one after the other; all.size() = tensor * mine.size().
  void gather(std::span<const float> mine, std::span<float> all);
  // Among the ranks of this stage too, but from and to the machine's own memory whatever the backend computes
  // in: bytes one after the other, as above; from place to place, 0 to 1 and so on; from the last place to
  // all.
  void gather(std::span<const std::byte> mine, std::span<std::byte> all);
  void to_next_place(std::span<const std::byte> bytes);
  void from_previous_place(std::span<std::byte> bytes);
  void from_last_place(std::span<std::byte> bytes);
  // To and from the rank at the same place of the next and the previous stage.
  void send_on(std::span<const float> activations);
  void receive(std::span<float> activations);
  // What a step gave, from a rank of the last stage to rank 0; report() does not wait until it is taken.
  void report(std::span<const std::byte> bytes);
  void hear(int rank, std::span<std::byte> bytes);
  // From rank 0 to everyone; waits until `deadline`.
  void broadcast(std::span<std::byte> bytes, Instant deadline);
  void broadcast(std::span<std::byte> bytes);

  const absl::Status& status() const { return status_; }
  // Time spent in all of these: copying and waiting.
  Duration spent() const { return spent_; }
  // Passed by each of these, for whoever else uses the memory that steps use.
  OrderFence& fence() { return fence_; }

 private:
  // Ranks on GPUs have a `tensor` of their own, and one stage: then `world` is the stage's in host memory.
  Communicator& places() { return shape_.pipeline == 1 ? parts_.world : parts_.tensor; }
  Communicator& results() { return parts_.results == nullptr ? parts_.world : *parts_.results; }
  // Runs call(deadline) unless something failed before.
  template <class Call>
  void attempt(const Call& call);

  const Parts parts_;
  const ParallelShape shape_;
  absl::Status status_;
  Duration spent_{};
  OrderFence fence_;
};

}  // namespace baton::worker
