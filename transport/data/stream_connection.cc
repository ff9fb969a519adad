#include "transport/data/stream_connection.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/cat.h"

namespace baton::transport {
namespace {

constexpr uint32_t kMagic = 0x31535442;  // "BTS1"
struct Prefix {
  uint32_t magic = kMagic;
  uint32_t head_bytes = 0;
  uint64_t payload_bytes = 0;
};
static_assert(sizeof(Prefix) == 16);

constexpr size_t kReadAhead = 4096;         // read beyond what is known to come
constexpr size_t kMaxHead = 16 * 1024;      // the largest frame head has 512 runs and a piece header
constexpr size_t kMaxCollected = 1 << 20;   // of a payload that has no place of its own
constexpr uint64_t kMaxPayload = 64 << 20;  // nothing larger is ever believed
constexpr size_t kReadChunk = 256 * 1024;   // summed while still in the cache
constexpr uint64_t kFewBytes = 128 * 1024;  // not worth to wait for more
constexpr uint64_t kMostAtOnce = 256 * 1024;
constexpr size_t kParts = 128;  // of one system call
constexpr size_t kWriteChunk = 1 << 20;
constexpr size_t kFromFile = 128 * 1024;  // less is copied: a system call of its own costs more
constexpr size_t kDiscard = 64 * 1024;
// In the middle of a payload the rest is on its way: asking again costs less than sleeping and waking up, and
// while this thread asks, packets are taken up on its core instead of the sender's.
constexpr int kAskAgain = 64;

iovec part(std::span<const std::byte> bytes) { return {const_cast<std::byte*>(bytes.data()), bytes.size()}; }

// The parts of a frame as one list.
template <class Each>
void for_each_part(const OutgoingFrame& frame, Each each) {
  each(std::as_bytes(std::span(frame.head)));
  if (!frame.body.empty()) each(std::as_bytes(std::span(frame.body)));
  for (const auto piece : frame.payload) each(piece);
}

}  // namespace

struct StreamConnection::Batch {
  std::array<iovec, kParts> parts;
  size_t count = 0;
  size_t bytes = 0;
  std::span<const std::byte> run;  // of the file
  bool run_follows = false;        // a run of the file is next
  bool full() const { return count == kParts || bytes >= kWriteChunk || !run.empty() || run_follows; }
};

StreamConnection::StreamConnection(LinkId id, int descriptor, bool connecting, std::unique_ptr<TlsStream> tls)
    : id_(id),
      descriptor_(descriptor),
      connecting_(connecting),
      tls_(std::move(tls)),
      inbox_(sizeof(Prefix) + kMaxHead) {}

StreamConnection::~StreamConnection() { ::close(descriptor_); }

void StreamConnection::fail(std::string reason) {
  if (!open_) return;
  open_ = false;
  broken_ = true;
  failure_ = std::move(reason);
}

// ---- sending
// ---------------------------------------------------------------------------------------------------

void StreamConnection::queue(OutgoingFrame frame) {
  Prefix prefix{.head_bytes = static_cast<uint32_t>(frame.head.size()), .payload_bytes = frame.body.size()};
  for (const auto piece : frame.payload) prefix.payload_bytes += piece.size();
  frame.head.insert(0, reinterpret_cast<const char*>(&prefix), sizeof prefix);
  const size_t bytes = frame.head.size() + prefix.payload_bytes;
  queued_bytes_ += bytes;
  outgoing_.push_back({.frame = std::move(frame), .bytes = bytes});
}

bool StreamConnection::connected() {
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(descriptor_, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) {
    fail(cat("connect: ", std::strerror(error)));
    return false;
  }
  sockaddr_storage peer;
  size = sizeof peer;
  if (::getpeername(descriptor_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return false;  // not yet
  connecting_ = false;
  return true;
}

void StreamConnection::flush() {
  if (!open_ || (connecting_ && !connected())) return;
  if (outgoing_.empty() && tls_) (void)write_parts({}, false);  // what is encrypted and waits
  while (open_ && !outgoing_.empty()) {
    const size_t n = write(next_batch());
    if (n == 0) return;
    sent(n);
  }
}

bool StreamConnection::in_file(std::span<const std::byte> piece) const {
  return piece.size() >= kFromFile && piece.data() >= file_.mapped.data() &&
         piece.data() + piece.size() <= file_.mapped.data() + file_.mapped.size();
}

StreamConnection::Batch StreamConnection::next_batch() const {
  Batch batch;
  for (const Outgoing& out : outgoing_) {
    size_t skip = out.sent;
    for_each_part(out.frame, [&](std::span<const std::byte> piece) {
      const size_t over = std::min(skip, piece.size());
      skip -= over;
      if (over == piece.size() || batch.full()) return;
      const std::span<const std::byte> rest = piece.subspan(over);
      if (in_file(piece)) {
        if (batch.count > 0)
          batch.run_follows = true;
        else
          batch.run = rest;
        return;
      }
      batch.parts[batch.count++] = part(rest);
      batch.bytes += rest.size();
    });
    if (batch.full()) break;
  }
  return batch;
}

// How much; 0: not now, or never.
size_t StreamConnection::write(const Batch& batch) {
  if (!batch.run.empty()) return write_file(batch.run);
  return write_parts({batch.parts.data(), batch.count}, batch.run_follows);
}

// `more` follows at once: the kernel may wait for it to fill a packet.
size_t StreamConnection::write_parts(std::span<const iovec> parts, bool more) {
  if (tls_) {
    const size_t taken = tls_->write(parts);
    if (tls_->failed()) fail(tls_->failure());
    return taken;
  }
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0);
  ssize_t n = 0;
  do {
    n = ::sendmsg(descriptor_, &message, flags);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) fail(cat("send: ", std::strerror(errno)));
  return n < 0 ? 0 : static_cast<size_t>(n);
}

size_t StreamConnection::write_file(std::span<const std::byte> run) {
  off_t at = run.data() - file_.mapped.data();
  ssize_t n = 0;
  do {
    n = ::sendfile(descriptor_, file_.descriptor, &at, run.size());
  } while (n < 0 && errno == EINTR);
  if (n > 0) {
    lent_ = written_ + static_cast<uint64_t>(n);
    return static_cast<size_t>(n);
  }
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
  // The file cannot be sent from, or this process may not, or has no room for the pipe that is inside.
  const std::array<int, 6> by_copying = {EINVAL, ENOSYS, ESPIPE, ENOMEM, EPERM, EACCES};
  if (n == 0 || std::ranges::count(by_copying, errno) > 0) {
    file_ = {};
    return write(next_batch());
  }
  fail(cat("send: ", std::strerror(errno)));
  return 0;
}

bool StreamConnection::lends_pages() const {
  int unconfirmed = 0;
  if (lent_ == 0) return false;
  if (::ioctl(descriptor_, SIOCOUTQ, &unconfirmed) != 0) return true;
  return written_ - static_cast<uint64_t>(unconfirmed) < lent_;
}

// Nothing more is sent of what the kernel holds, and the peer is told so.
bool StreamConnection::reset() {
  sockaddr nobody{};
  nobody.sa_family = AF_UNSPEC;
  if (::connect(descriptor_, &nobody, sizeof nobody) == 0) return true;
  const linger none{.l_onoff = 1, .l_linger = 0};  // then by close()
  (void)::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  return false;
}

void StreamConnection::hang_up() {
  const bool lends = lends_pages();
  file_ = {};  // no more of it is lent
  if (!lends) flush();
  open_ = false;
  if (!lends || !reset()) (void)::shutdown(descriptor_, SHUT_WR);
}

void StreamConnection::sent(size_t bytes) {
  written_ += bytes;
  queued_bytes_ -= bytes;
  while (bytes > 0) {
    Outgoing& front = outgoing_.front();
    const size_t here = std::min(bytes, front.bytes - front.sent);
    front.sent += here;
    bytes -= here;
    if (front.sent == front.bytes) outgoing_.pop_front();
  }
}

// ---- receiving
// -------------------------------------------------------------------------------------------------

size_t StreamConnection::receive(LinksListener& listener, size_t budget) {
  size_t total = 0;
  int asked = 0;
  while (open_ && total < budget) {
    const size_t n = read_some();
    if (n == 0 && (payload_left_ == 0 || ++asked > kAskAgain)) break;
    if (n == 0) continue;
    asked = 0;
    total += n;
    while (open_ && consume(listener)) {
    }
  }
  holds_more_ = tls_ != nullptr && total >= budget;
  if (open_) ask_for_more_at_once();
  return total;
}

// In the middle of a payload it is not worth waking up for every segment: what is left is sure to come, or
// the end of the connection. Half of it, so that reading goes on beside sending.
void StreamConnection::ask_for_more_at_once() {
  const int wanted =
      payload_left_ < kFewBytes ? 1 : static_cast<int>(std::min(payload_left_ / 2, kMostAtOnce));
  if (wanted == wake_at_) return;
  // Refused: only more wake-ups.
  (void)::setsockopt(descriptor_, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
  wake_at_ = wanted;
}

// One read, into the places of the payload that is under way and behind it into the inbox.
size_t StreamConnection::read_some() {
  if (payload_left_ > 0 && !landing_) {
    const size_t want = std::min<uint64_t>(payload_left_, kReadChunk);
    if (collected_.size() < collected_bytes_ + want) collected_.resize(collected_bytes_ + want);
    const std::span<std::byte> free(reinterpret_cast<std::byte*>(collected_.data()) + collected_bytes_, want);
    return read_room({&free, 1});
  }
  if (payload_left_ > 0) {
    const auto room = landing_->room();
    if (!room.empty()) return read_room(room);
    // Aligned for lld: a thread's variables that begin at an odd place near the end of a page make programs
    // that do not load.
    alignas(64) thread_local std::array<std::byte, kDiscard> nowhere;
    const std::span<std::byte> free(nowhere.data(), std::min<uint64_t>(payload_left_, kDiscard));
    return read_room({&free, 1});
  }
  return read_room({});
}

size_t StreamConnection::read_room(std::span<const std::span<std::byte>> room) {
  std::array<iovec, kParts> parts;
  size_t count = 0;
  size_t wanted = 0;
  for (const auto place : room) {
    if (count == kParts - 1 || wanted == kReadChunk) break;
    const size_t n = std::min<uint64_t>({place.size(), kReadChunk - wanted, payload_left_ - wanted});
    parts[count++] = {place.data(), n};
    wanted += n;
  }
  if (wanted == payload_left_) {
    if (begin_ > 0) std::memmove(inbox_.data(), inbox_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    // More than a little only when a head is known to be that long.
    const size_t upto = end_ < kReadAhead ? kReadAhead : inbox_.size();
    parts[count++] = {inbox_.data() + end_, upto - end_};
  }
  const size_t n = read_parts({parts.data(), count});
  const size_t placed = std::min(n, wanted);
  if (placed > 0) took(placed);
  end_ += n - placed;
  return n;
}

// 0: nothing now, or never.
size_t StreamConnection::read_parts(std::span<iovec> parts) {
  if (tls_) {
    const size_t got = tls_->read(parts);
    if (got == 0 && tls_->failed()) fail(tls_->failure());
    return got;
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  const ssize_t n = ::recvmsg(descriptor_, &message, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  if (n <= 0) fail(n == 0 ? "closed by the peer" : cat("receive: ", std::strerror(errno)));
  return n <= 0 ? 0 : static_cast<size_t>(n);
}

// `bytes` of payload were read into the places that read_some() chose.
void StreamConnection::took(size_t bytes) {
  payload_left_ -= bytes;
  if (!landing_) {
    collected_bytes_ += bytes;
  } else if (!landing_->room().empty()) {
    landing_->received(bytes);
  }
}

// Goes one step on with what was read; false when more must be read first.
bool StreamConnection::consume(LinksListener& listener) {
  if (!in_frame_) return begin_frame(listener);
  take_from_inbox();
  if (payload_left_ > 0) return false;
  in_frame_ = false;
  landing_ = nullptr;
  const std::string head = std::move(head_);
  listener.on_frame(id_, std::as_bytes(std::span(head)),
                    std::as_bytes(std::span(collected_.data(), collected_bytes_)));
  collected_bytes_ = 0;
  if (collected_.size() > kReadChunk) collected_ = {};
  return true;
}

bool StreamConnection::begin_frame(LinksListener& listener) {
  Prefix prefix;
  if (end_ - begin_ < sizeof prefix) return false;
  std::memcpy(&prefix, inbox_.data() + begin_, sizeof prefix);
  if (prefix.magic != kMagic || prefix.head_bytes > kMaxHead || prefix.payload_bytes > kMaxPayload) {
    fail("stream: not a frame");
    return false;
  }
  if (end_ - begin_ < sizeof prefix + prefix.head_bytes) return false;
  head_.assign(reinterpret_cast<const char*>(inbox_.data() + begin_ + sizeof prefix), prefix.head_bytes);
  begin_ += sizeof prefix + prefix.head_bytes;
  in_frame_ = true;
  payload_left_ = prefix.payload_bytes;
  landing_ = payload_left_ == 0
                 ? nullptr
                 : listener.on_payload(id_, std::as_bytes(std::span(head_)), prefix.payload_bytes);
  if (open_ && !landing_ && payload_left_ > kMaxCollected) fail("stream: more bytes than anybody asked for");
  return open_;
}

// The first bytes of a payload that came with its head.
void StreamConnection::take_from_inbox() {
  const size_t n = std::min<uint64_t>(payload_left_, end_ - begin_);
  if (n == 0) return;
  place(std::span(inbox_).subspan(begin_, n));
  begin_ += n;
}

void StreamConnection::place(std::span<const std::byte> bytes) {
  payload_left_ -= bytes.size();
  if (!landing_) {
    if (collected_.size() < collected_bytes_ + bytes.size())
      collected_.resize(collected_bytes_ + bytes.size());
    std::memcpy(collected_.data() + collected_bytes_, bytes.data(), bytes.size());
    collected_bytes_ += bytes.size();
    return;
  }
  while (!bytes.empty()) {
    const auto room = landing_->room();
    if (room.empty()) return;
    const size_t n = std::min(bytes.size(), room[0].size());
    std::memcpy(room[0].data(), bytes.data(), n);
    landing_->received(n);
    bytes = bytes.subspan(n);
  }
}

}  // namespace baton::transport
