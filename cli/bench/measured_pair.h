#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"

namespace baton::cli {

// What one order to a pair of processes says: move `total` bytes in pieces of `piece`.
struct MoveOrder {
  uint64_t piece = 0;
  uint64_t total = 0;
};
struct MoveResult {
  double seconds = 0;
  double cpu_seconds = 0;  // of both processes
};

// What the processes of a pair run. serve() answers orders that come on a pipe, one after the other; it
// returns when the pipe ends. Thread: the only one of its process.
class MovePipe {
 public:
  MovePipe(int orders, int results) : orders_(orders), results_(results) {}
  // False when there are no more.
  bool next(MoveOrder& order) const;
  void done(double seconds) const;

 private:
  int orders_;
  int results_;
};
struct MovePair {
  // Gets orders. `address` is what the receiver wrote when it was ready.
  std::function<void(const MovePipe& pipe, const std::string& address)> sender;
  // Writes its address once by `ready`, then works until it is killed.
  std::function<void(const std::function<void(const std::string&)>& ready)> receiver;
};

// Where a process of a pair works: its core (-1 = wherever the kernel likes) and its network namespace (a
// name of `ip netns`, or a path; empty: the one of the caller).
struct MovePlace {
  int core = -1;
  std::string network;
};

// The receiving process of a pair, wherever it runs. It dies with this object. Thread: one.
class MoveReceiver {
 public:
  virtual ~MoveReceiver() = default;
  // What it wrote when it was ready.
  virtual const std::string& address() const = 0;
  // Of CPU, since it began; 0 when nobody can tell any more.
  virtual double cpu_seconds() const = 0;
};

// On this machine. Errors: a namespace that cannot be entered, a process that ends before it is ready.
absl::StatusOr<std::unique_ptr<MoveReceiver>> fork_receiver(const MovePair& pair, const MovePlace& place);

// Two processes, each on a core of its own, and the stopwatch around them. They die with this object and with
// this process. Thread: one. Owns: the processes and their pipes.
class MeasuredPair {
 public:
  // Errors: a namespace that cannot be entered, a process that does not start.
  static absl::StatusOr<std::unique_ptr<MeasuredPair>> start(const MovePair& pair, const MovePlace& sender,
                                                             std::unique_ptr<MoveReceiver> receiver);
  ~MeasuredPair();
  MeasuredPair(const MeasuredPair&) = delete;
  MeasuredPair& operator=(const MeasuredPair&) = delete;

  absl::StatusOr<MoveResult> move(const MoveOrder& order);

  // What the kernel gives new TCP connections in a network namespace (as in MovePlace); "" if it does not
  // say.
  static std::string congestion_control(const std::string& network);

 private:
  explicit MeasuredPair(std::unique_ptr<MoveReceiver> receiver) : receiver_(std::move(receiver)) {}
  double cpu_seconds() const;

  const std::unique_ptr<MoveReceiver> receiver_;
  pid_t sender_ = -1;
  int orders_ = -1;
  int results_ = -1;
};

}  // namespace baton::cli
