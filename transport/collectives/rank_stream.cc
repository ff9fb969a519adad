#include "transport/collectives/rank_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/cat.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using transport::TlsStream;

constexpr const char* kClosed = "it closed the connection";

bool again(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

msghdr message_of(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  return message;
}

}  // namespace

RankStream::RankStream(OwnedFd socket, const transport::TlsContext* tls, Side side)
    : socket_(std::move(socket)),
      tls_(tls == nullptr ? nullptr : std::make_unique<TlsStream>(*tls, socket_.get(), side)) {}

absl::Status RankStream::failure() const {
  switch (tls_->fault()) {
    case TlsStream::Fault::kPlain:
      return absl::FailedPreconditionError(
          cat("it does not speak TLS, and this rank does (control.tls): ", kSameTls));
    case TlsStream::Fault::kRefused:
      return absl::FailedPreconditionError(
          cat(tls_->failure(), "; both want a certificate of control.tls.ca that is in date and carries ",
              "control.tls.worker.name"));
    case TlsStream::Fault::kBroken:
      return absl::FailedPreconditionError(tls_->failure());
    default:
      return absl::UnavailableError(tls_->failure() == "closed by the peer" ? kClosed : tls_->failure());
  }
}

absl::StatusOr<bool> RankStream::meet() {
  if (tls_ == nullptr) return true;
  (void)tls_->write({});
  if (tls_->failed()) return failure();
  return tls_->established() && !tls_->wants_to_write();
}

short RankStream::awaited_events() const {
  return static_cast<short>(has_unsent() ? POLLIN | POLLOUT : POLLIN);
}

absl::StatusOr<size_t> RankStream::send_now(std::span<const iovec> parts) {
  if (tls_ != nullptr) {
    const size_t taken = tls_->write(parts);
    if (!tls_->failed()) return taken;
    char none[1];
    (void)look(none);  // what the peer said before it went tells more than that it did
    return failure();
  }
  const msghdr message = message_of(parts);
  const ssize_t n = ::sendmsg(fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n >= 0) return static_cast<size_t>(n);
  if (again(errno)) return 0;
  return absl::UnavailableError(cat("send: ", std::strerror(errno)));
}

absl::StatusOr<size_t> RankStream::receive_now(std::span<const iovec> parts) {
  if (!seen_.empty() && !parts.empty()) {
    const size_t n = std::min(seen_.size(), parts[0].iov_len);
    std::memcpy(parts[0].iov_base, seen_.data(), n);
    seen_.erase(0, n);
    return n;
  }
  if (tls_ != nullptr) {
    const size_t got = tls_->read(parts);
    if (got == 0 && tls_->failed()) return failure();
    return got;
  }
  msghdr message = message_of(parts);
  const ssize_t n = ::recvmsg(fd(), &message, MSG_DONTWAIT);
  if (n > 0) return static_cast<size_t>(n);
  if (n == 0) return absl::UnavailableError(kClosed);
  if (again(errno)) return 0;
  return absl::UnavailableError(cat("receive: ", std::strerror(errno)));
}

size_t RankStream::look(std::span<char> bytes) {
  if (tls_ == nullptr) {
    const ssize_t n = ::recv(fd(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
    return static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
  if (seen_.size() < bytes.size()) {
    const size_t had = seen_.size();
    seen_.resize(bytes.size());
    const std::array<iovec, 1> room{iovec{seen_.data() + had, seen_.size() - had}};
    seen_.resize(had + tls_->read(room));
  }
  const size_t n = std::min(seen_.size(), bytes.size());
  std::memcpy(bytes.data(), seen_.data(), n);
  return n;
}

absl::Status RankStream::write_all(std::span<const std::byte> bytes, Instant deadline) {
  while (!bytes.empty() || has_unsent()) {
    const std::array<iovec, 1> part{iovec{const_cast<std::byte*>(bytes.data()), bytes.size()}};
    ASSIGN_OR_RETURN(const size_t n, send_now(part));
    bytes = bytes.subspan(n);
    if (n > 0) continue;
    // Before each side knows the other, it is the other's turn.
    const bool meets = tls_ != nullptr && !tls_->established();
    RETURN_IF_ERROR(wait_for(fd(), meets ? awaited_events() : POLLOUT, deadline));
  }
  return absl::OkStatus();
}

absl::Status RankStream::read_exactly(std::span<std::byte> bytes, Instant deadline) {
  while (!bytes.empty()) {
    const std::array<iovec, 1> room{iovec{bytes.data(), bytes.size()}};
    ASSIGN_OR_RETURN(const size_t n, receive_now(room));
    bytes = bytes.subspan(n);
    if (n == 0) RETURN_IF_ERROR(wait_for(fd(), awaited_events(), deadline));
  }
  return absl::OkStatus();
}

}  // namespace baton
