#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace baton {

// The ranks of one worker talk through this: collectives that all ranks call in the same order with the same
// sizes, and messages between two of them. Every call blocks until its part is done, until `deadline`, or
// until a rank is known to be gone: kDeadlineExceeded or kUnavailable, naming the rank waited for. After an
// error the communicator is broken for good: every later call fails at once with the same status, and the
// group has to be formed anew (a new incarnation).
//
// Bits: all_reduce adds the ranks' values by one fixed binary tree over the ranks (kernels::sum_tree's:
// docs/adr/0005), the same on every rank, lane and size, so that a sum cut over ranks is the sum of one rank.
//
// Time in which this process itself did not run (a paused machine) is no waiting: deadlines move by it.
//
// Thread: one at a time. Owns its buffers; spans are borrowed for the call. Waiting spins for a short while,
// then sleeps.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string lane() const = 0;  // "self", "shm", "socket", "socket-tls", "nccl"

  // values[i] = sum over ranks of their values[i], on every rank, in place.
  virtual absl::Status all_reduce(std::span<float> values, Instant deadline) = 0;
  // all[r * mine.size() ..] = rank r's `mine`, on every rank; all.size() = size() * mine.size().
  virtual absl::Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all,
                                  Instant deadline) = 0;
  // bytes of rank `root` on every rank. The sender returns as soon as its bytes are handed over: it may be
  // ahead of the others by a bounded number of messages.
  virtual absl::Status broadcast(int root, std::span<std::byte> bytes, Instant deadline) = 0;
  virtual absl::Status send(int to, std::span<const std::byte> bytes, Instant deadline) = 0;
  // Exactly as many bytes as were sent by the matching send, else kInternal (and broken).
  virtual absl::Status receive(int from, std::span<std::byte> bytes, Instant deadline) = 0;
  virtual absl::Status barrier(Instant deadline) = 0;
  // Without waiting: OK unless the communicator is broken or a rank is seen to be gone (which breaks it). A
  // rank that idles asks this now and then.
  virtual absl::Status alive() = 0;
  // From any thread: breaks it as if `culprit` had been waited for in vain. Whoever waits on this rank comes
  // back soon, and so does everybody else where memory is shared.
  virtual void interrupt(int /*culprit*/) {}
  // Of a broken one: the rank that it is about; else -1.
  virtual int culprit() const { return -1; }
};

}  // namespace baton
