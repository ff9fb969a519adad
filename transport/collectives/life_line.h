#pragma once

#include <utility>

#include "absl/status/statusor.h"

namespace baton {

// A file descriptor with one owner. Thread: one at a time.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~OwnedFd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset();
  absl::StatusOr<OwnedFd> duplicate() const;

 private:
  int fd_ = -1;
};

// How a rank's death is seen without asking it: it holds the writing end of a pipe, everybody else the
// reading end. When the process dies, however it dies, the kernel closes the writing end and readers see a
// hang-up at once. Works between containers (the descriptor is passed, no process id is named) and between
// threads.
struct LifeLine {
  OwnedFd held;     // by the rank that lives
  OwnedFd watched;  // by the others; may be duplicated and passed on

  static absl::StatusOr<LifeLine> make();
};

// The holder of the line behind `watched` is gone. Does not block.
bool line_is_cut(int watched);

}  // namespace baton
