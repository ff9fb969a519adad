#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "transport/data/links.h"
#include "transport/tls/tls_stream.h"

namespace baton::transport {

// Memory that is a file, too: payload in it need not be copied to be sent, the kernel sends its pages as they
// lie. They must not change before the peer has answered or the connection has ended. What a device has of
// them by then may still go out, so the peer checks a sum.
struct SourceFile {
  int descriptor = -1;
  std::span<const std::byte> mapped;  // from the file's first byte
};

// One TCP connection that carries frames: a prefix of 16 bytes (magic, length of head, length of payload),
// the head, the payload. Non-blocking both ways. The payload of a frame with a Landing is read straight into
// its places; only what came together with the head (at most kReadAhead bytes) is copied. With a TlsStream
// all of it is encrypted, and no frame goes either way before the peer is verified. Thread: progress. Owns:
// the descriptor. Errors: broken() with failure(); nothing is read or written afterwards.
class StreamConnection {
 public:
  StreamConnection(LinkId id, int descriptor, bool connecting, std::unique_ptr<TlsStream> tls = nullptr);
  ~StreamConnection();
  StreamConnection(const StreamConnection&) = delete;
  StreamConnection& operator=(const StreamConnection&) = delete;

  LinkId id() const { return id_; }
  int descriptor() const { return descriptor_; }
  // Plain connections only. SIGPIPE must be ignored.
  void send_from(const SourceFile& file) {
    if (!tls_) file_ = file;
  }
  void queue(OutgoingFrame frame);
  size_t queued_bytes() const { return queued_bytes_; }
  // To be told when the kernel has room: not while the peer is still to be verified.
  bool wants_to_write() const {
    if (connecting_ || (tls_ && tls_->wants_to_write())) return true;
    return !outgoing_.empty() && (!tls_ || tls_->established());
  }
  // Writes what the kernel takes; finishes a connect().
  void flush();
  // Reads about `budget` bytes at most and hands on what is complete; returns how many.
  size_t receive(LinksListener& listener, size_t budget);
  // Bytes that receive() left for the next turn may be here already, unknown to the kernel.
  bool holds_more() const { return open_ && holds_more_; }
  // Its owner wants no more of it, perhaps from inside receive(). Words that were said last still go out when
  // the kernel takes them now; not where it holds pages of the file that the peer's has not confirmed: these
  // are taken back, and all that waits with them.
  void hang_up();
  bool broken() const { return broken_; }
  const std::string& failure() const { return failure_; }

 private:
  struct Outgoing {
    OutgoingFrame frame;  // the prefix stands before its head
    size_t sent = 0;
    size_t bytes = 0;
  };

  // What goes next, in one system call: `count` parts, or a run of the file.
  struct Batch;

  void fail(std::string reason);
  bool lends_pages() const;
  bool reset();
  bool connected();
  bool in_file(std::span<const std::byte> piece) const;
  Batch next_batch() const;
  size_t write(const Batch& batch);
  size_t write_parts(std::span<const iovec> parts, bool more);
  size_t write_file(std::span<const std::byte> run);
  size_t read_parts(std::span<iovec> parts);
  void sent(size_t bytes);
  size_t read_some();
  size_t read_room(std::span<const std::span<std::byte>> room);
  void took(size_t bytes);
  void ask_for_more_at_once();
  bool consume(LinksListener& listener);
  bool begin_frame(LinksListener& listener);
  void take_from_inbox();
  void place(std::span<const std::byte> bytes);

  const LinkId id_;
  const int descriptor_;
  bool connecting_;
  const std::unique_ptr<TlsStream> tls_;  // null: plain
  bool open_ = true;
  bool holds_more_ = false;
  bool broken_ = false;
  std::string failure_;

  SourceFile file_;
  uint64_t written_ = 0;  // to the kernel
  uint64_t lent_ = 0;     // of written_: where the last run of the file ended
  std::deque<Outgoing> outgoing_;
  size_t queued_bytes_ = 0;

  std::vector<std::byte> inbox_;  // [begin_, end_) is not looked at yet
  size_t begin_ = 0;
  size_t end_ = 0;
  bool in_frame_ = false;
  std::string head_;
  uint64_t payload_left_ = 0;
  int wake_at_ = 1;  // bytes that must have come before the kernel tells us
  Landing* landing_ = nullptr;
  std::string collected_;  // payload without a landing
  size_t collected_bytes_ = 0;
};

}  // namespace baton::transport
