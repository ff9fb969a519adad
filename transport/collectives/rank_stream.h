#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "transport/collectives/life_line.h"
#include "transport/tls/tls_stream.h"

namespace baton {

// What to do when one rank has TLS and another has not.
inline constexpr const char* kSameTls =
    "give all ranks of the worker the same control.tls, and "
    "parallel.insecureAllowPlaintextOffLoopback to all of them or to none";

// One connection between two ranks: a stream socket, plain or under mutual TLS, with the same calls for both.
// Under TLS no byte goes either way before each side has verified the other. Thread: one at a time; fd() may
// be shut down by another. Owns: the socket. Errors, final: kUnavailable when the peer is gone,
// kFailedPrecondition when one of the two does not take the other, with the reason.
class RankStream {
 public:
  using Side = transport::TlsStream::Side;

  RankStream() = default;
  explicit RankStream(OwnedFd socket) : socket_(std::move(socket)) {}
  RankStream(OwnedFd socket, const transport::TlsContext* tls, Side side);  // tls null: plain

  int fd() const { return socket_.get(); }
  bool valid() const { return socket_.valid(); }
  bool has_tls() const { return tls_ != nullptr; }

  // Without waiting. Goes on with the handshake: true when each side knows the other (plain: at once).
  absl::StatusOr<bool> meet();
  // What poll() should wait for while meet() says false.
  short awaited_events() const;
  // How much of `parts` was taken; 0: nothing now. What was taken is on its way when has_unsent() is false.
  absl::StatusOr<size_t> send_now(std::span<const iovec> parts);
  bool has_unsent() const { return tls_ != nullptr && tls_->wants_to_write(); }
  // How much came; 0: nothing now.
  absl::StatusOr<size_t> receive_now(std::span<const iovec> parts);
  // Copies of what has come, from its beginning, without taking it.
  size_t look(std::span<char> bytes);

  // All of it, or kDeadlineExceeded.
  absl::Status write_all(std::span<const std::byte> bytes, Instant deadline);
  absl::Status read_exactly(std::span<std::byte> bytes, Instant deadline);

 private:
  absl::Status failure() const;

  OwnedFd socket_;
  std::unique_ptr<transport::TlsStream> tls_;  // null: plain
  std::string seen_;                           // under TLS: looked at, not taken
};

}  // namespace baton
