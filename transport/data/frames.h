#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "transport/data/data_plane.h"
#include "transport/data/peer_pool.h"
#include "transport/data/pull_lane.h"

// What two data planes say to each other, before any fabric. Every field is checked on arrival; nothing in
// here is a memory address, but for what the ticket of a pull lane holds.
namespace baton::transport {

// What a peer needs for one pull lane; the lane alone knows how to read it.
struct LaneTicket {
  Lane lane = Lane::kGet;
  std::string text;
};

// First frame of the side that connected; the other answers with the same or refuses.
struct HelloFrame {
  DataIdentity identity;
  WorkerRef expected;  // whom I believe to speak to; in the answer: the one who connected
  uint8_t lanes = 0;   // allowed, mask of Lane
  bool checksum = true;
  PoolTicket pool;
  uint32_t probe_checksum = 0;
  std::vector<LaneTicket> tickets;
};
// kDuplicate: both sides connected at once; the sender keeps the other connection.
struct RefuseFrame {
  enum class Code : uint8_t { kMismatch, kStale, kDuplicate, kClosed };
  Code code = Code::kMismatch;
  std::string reason;
};
struct PingFrame {
  uint8_t number = 0;
};
struct PongFrame {
  uint8_t number = 0;
};
// Asks for kProbeFrames frames of test data.
struct ProbeRequestFrame {
  uint32_t bytes = 0;
};
struct ProbeFrame {  // with payload
  uint32_t index = 0;
  uint32_t checksum = 0;
};
// The lanes by which the sender of this frame can receive; last frame of the handshake.
struct LanesFrame {
  uint8_t mask = 0;
  std::string detail;  // why a lane is missing
};
// After the handshake: my offers go slowly, test the lane that brings them to you.
struct CheckLaneFrame {};
struct LaneCheckedFrame {
  bool verified = false;
  uint64_t bytes_per_second = 0;  // of the test transfer
  std::string detail;             // when not verified
};
struct MessageFrame {};  // with payload
// Lane::kStream: the bytes are the payload and `runs` is empty. Other lanes: runs of the sender's pool.
struct OfferFrame {
  uint64_t cookie = 0;
  Lane lane = Lane::kStream;
  uint64_t bytes = 0;
  bool has_checksum = false;
  uint32_t checksum = 0;
  std::string header;
  std::vector<PoolRun> runs;
};
struct AnswerFrame {
  uint64_t cookie = 0;
  uint8_t code = 0;  // absl::StatusCode
  std::string reason;
};

using FrameBody =
    std::variant<HelloFrame, RefuseFrame, PingFrame, PongFrame, ProbeRequestFrame, ProbeFrame, LanesFrame,
                 MessageFrame, OfferFrame, AnswerFrame, CheckLaneFrame, LaneCheckedFrame>;

// `number` counts the frames of a connection from 0: a lost, doubled or overtaking frame is seen.
struct Frame {
  uint64_t number = 0;
  FrameBody body;
};

inline constexpr uint32_t kProbeFrames = 8;
inline constexpr size_t kMaxReason = 512;

// The identity can be said in a hello: a name, and no part too long to be believed on the other side.
absl::Status check_identity(const DataIdentity& identity);

std::string encode_frame(const Frame& frame);
absl::StatusOr<Frame> decode_frame(std::span<const std::byte> bytes);

}  // namespace baton::transport
