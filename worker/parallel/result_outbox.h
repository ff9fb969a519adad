#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <span>
#include <stop_token>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/communicator.h"

namespace baton::worker {

// The way of what a step gave (tokens, candidates, logits) from a rank of the last stage to rank 0, which may
// be computing its stage of a later step and not listen yet. A rank that waited for it with all its logits in
// hand would not take the activations that rank 0 waits to be rid of: nobody would move. So what is small
// goes into the connection at once (a few steps' worth fits into any lane), and the rest is sent by a thread
// of its own. Messages arrive in the order of post().
//
// Thread: post() the engine's, run() its own; both use the communicator, one at a time, and nobody else may.
// Borrows it. Errors: post() returns what went wrong with an earlier message, for ever.
class ResultOutbox {
 public:
  static constexpr size_t kAtOnce = size_t{16} << 10;

  // Rank 0 has to take a message within `patience`.
  ResultOutbox(Communicator& results, const Clock& clock, Duration patience)
      : results_(results), clock_(clock), patience_(patience) {}

  absl::Status post(std::span<const std::byte> message);
  void run(const std::stop_token& stop);

 private:
  absl::Status send(std::span<const std::byte> message);

  Communicator& results_;
  const Clock& clock_;
  const Duration patience_;
  std::mutex mutex_;  // of all below
  std::condition_variable_any filled_;
  std::deque<std::vector<std::byte>> waiting_;  // the first one is being sent
  absl::Status error_;
};

}  // namespace baton::worker
