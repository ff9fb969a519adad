#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "base/status.h"

namespace baton {

// What rank 0 draws and every rank starts with.
using NcclId = std::array<std::byte, 128>;

// The few calls of NCCL that a communicator is made of, so that its paths (forming, deadlines, aborting) are
// tested without a GPU. All communicators are non-blocking ones: kInProgress means that state() has to be
// asked until it says otherwise, before the next call. `communicator` is NCCL's handle, `stream` a
// cudaStream_t; pointers are memory of the device that is current. Thread: one at a time for a communicator.
class NcclLibrary {
 public:
  enum class Answer : uint8_t {
    kDone,
    kInProgress,
    kRemote,  // another rank, or the way to it, failed
    kFailed,
  };
  using Handle = void*;
  using Stream = void*;

  virtual ~NcclLibrary() = default;
  virtual std::string version() const = 0;  // "2.28.9"
  virtual Answer new_id(NcclId& id) = 0;
  // *communicator is valid as soon as this returns anything but kFailed.
  virtual Answer begin(int ranks, const NcclId& id, int rank, Handle* communicator) = 0;
  // Of the last call, and of what was enqueued since.
  virtual Answer state(Handle communicator) = 0;
  // Ends its kernels on the device and frees it, without other ranks.
  virtual void abort(Handle communicator) = 0;
  virtual std::string last_error(Handle communicator) const = 0;

  virtual Answer all_reduce(Handle c, float* values, size_t floats, Stream stream) = 0;
  virtual Answer all_gather(Handle c, const std::byte* mine, std::byte* all, size_t bytes, Stream stream) = 0;
  virtual Answer broadcast(Handle c, int root, std::byte* values, size_t bytes, Stream stream) = 0;
  virtual Answer send(Handle c, int to, const std::byte* values, size_t bytes, Stream stream) = 0;
  virtual Answer receive(Handle c, int from, std::byte* values, size_t bytes, Stream stream) = 0;
};

// The machine's libnccl.so.2, opened when a group on GPUs is formed and not before: a program without one
// starts. kUnimplemented when this build has no NCCL, kUnavailable when the library is not found or older
// than 2.18 (where non-blocking communicators are complete).
absl::StatusOr<std::unique_ptr<NcclLibrary>> load_nccl();

}  // namespace baton
