#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace baton::transport {

// One connection; never used again after it closed.
using LinkId = uint64_t;

// `head` and `body` are owned and may be moved away; `payload` is borrowed pool memory and must stay as it is
// until the peer has answered or the link is closed. On the wire: head apart, then body and payload joined.
struct OutgoingFrame {
  std::string head;
  std::string body;
  std::vector<std::span<const std::byte>> payload;
};

// Where the payload of one frame is received into, without a stop in between. Owned by who gave it, valid
// until the frame's on_frame() or the end of the link. Thread: progress.
class Landing {
 public:
  virtual ~Landing() = default;
  // The places that are still to be filled, in order. Asked before every read, so that nothing is written
  // after its owner said no: empty = the rest of the payload is thrown away.
  virtual std::span<const std::span<std::byte>> room() = 0;
  // So many bytes lie in room() now.
  virtual void received(size_t bytes) = 0;
};

// Thread: progress, inside Links::poll().
class LinksListener {
 public:
  virtual ~LinksListener() = default;
  virtual void on_accepted(LinkId link) = 0;
  // The head of a frame is here, `bytes` of payload follow. Where they are to go; on_frame() then has an
  // empty payload. Null: on_frame() brings them. Only links that read from a stream ask.
  virtual Landing* on_payload(LinkId link, std::span<const std::byte> head, uint64_t bytes) = 0;
  // Both spans are valid during the call only.
  virtual void on_frame(LinkId link, std::span<const std::byte> head, std::span<const std::byte> payload) = 0;
  virtual void on_closed(LinkId link, const std::string& reason) = 0;
};

// Ordered, reliable frames between processes: what a fabric has to offer. Implementations: UcxLinks (the only
// file that knows UCX), SocketLinks (plain TCP), LoopbackLinks (threads of one process). Thread: progress,
// except wake(): any. Errors: a broken link is told by on_closed() from poll(), never inside a call; after
// close() nothing is told about that link any more.
class Links {
 public:
  virtual ~Links() = default;
  virtual void set_listener(LinksListener& listener) = 0;
  virtual std::string_view stream_lane() const = 0;  // name of Lane::kStream over these links
  virtual size_t segment_bytes() const = 0;          // payload that travels best in one frame
  virtual const std::string& address() const = 0;
  virtual absl::StatusOr<LinkId> connect(const std::string& address) = 0;
  virtual void send(LinkId link, OutgoingFrame frame) = 0;
  // The peer runs on this machine, whatever its address: what is on its way waits in memory, not on a wire.
  virtual void within_machine(LinkId /*link*/) {}
  virtual void close(LinkId link) = 0;
  // The peer has closed its end, though on_closed() was not told yet. False: not that anybody knows.
  virtual bool peer_closed(LinkId /*link*/) const { return false; }
  virtual int poll() = 0;
  virtual void wait(Duration timeout) = 0;
  virtual void wake() = 0;
  // wait() ends when this descriptor is readable, too. Links of one process need not.
  virtual void wait_for(int /*descriptor*/) {}
};

}  // namespace baton::transport
