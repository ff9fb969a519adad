#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "transport/data/frames.h"
#include "transport/data/pull_lane.h"
#include "transport/data/test_transfer.h"

namespace baton::transport {

// What this side brings into every handshake. Immutable.
struct HandshakeTerms {
  DataIdentity identity;
  AllowedLanes lanes;
  bool checksum = true;
  PoolTicket pool;
  std::span<const std::byte> probe;
  uint32_t probe_checksum = 0;
  size_t probe_frame_bytes = 0;
  std::string stream_lane;
  std::vector<PullLane*> pulls;  // the best first
  std::string missing;           // a pull lane that was wished for: why it is not there
};

// From "somebody connected" to "verified peer with a measured lane", for one connection. Both sides do the
// same: exchange hellos, compare, try every lane both allow with real bytes, tell each other what worked, and
// pick the same lane: of those that worked both ways local, else the best pull lane, else the stream. Thread:
// progress. Owns: the ways into the peer's memory. Errors: failure() says why; the owner sends nothing more
// and closes later, so that the last frame, the refusal, still leaves.
class Handshake {
 public:
  using Send = std::function<void(FrameBody, std::span<const std::byte> payload)>;
  enum class State : uint8_t { kHello, kVerifying, kReady, kFailed };

  // Starts the test transfer of a pull lane; pull_tested() brings the result.
  using TestPull = std::function<void(PeerMemory& memory)>;

  Handshake(const HandshakeTerms& terms, const Clock& clock, Send send, TestPull test_pull)
      : terms_(terms), clock_(clock), send_(std::move(send)), test_pull_(std::move(test_pull)) {}

  // The side that connected.
  void start(const WorkerRef& expected);
  // The other side, after its owner agreed to this peer.
  void accept(const HelloFrame& hello);
  void refuse(RefuseFrame::Code code, const std::string& reason);
  // The peer may ask for test data once more.
  void serve_again() { served_probe_ = false; }
  // False when the frame has no place here.
  bool on_frame(const FrameBody& frame, std::span<const std::byte> payload);
  void pull_tested(const absl::StatusOr<double>& rate);

  State state() const { return state_; }
  const std::string& failure() const { return failure_; }
  RefuseFrame::Code failure_code() const { return failure_code_; }
  bool refused_by_peer() const { return refused_by_peer_; }
  const HelloFrame& remote() const { return remote_; }
  // Valid when ready.
  Lane lane() const { return lane_; }
  double bytes_per_second() const { return rates_.at(lane_); }
  Duration latency() const { return latency_; }
  const std::string& detail() const { return detail_; }
  const PeerPool* peer_pool() const { return peer_pool_.get(); }
  // Of the pull lane that was agreed on.
  PeerMemory& peer_memory() const { return *memories_.at(lane_); }
  // Ends the ways into the peer's memory.
  void close_memories() { memories_.clear(); }

 private:
  HelloFrame hello(const WorkerRef& expected) const;
  std::string mismatch(const HelloFrame& remote) const;
  bool on_hello(const HelloFrame& hello);
  bool on_pong(const PongFrame& pong);
  bool on_probe(const ProbeFrame& probe, std::span<const std::byte> payload);
  bool on_probe_request(const ProbeRequestFrame& request);
  bool on_lanes(const LanesFrame& lanes);
  void verify();
  void try_local();
  void test_pulls();
  void works(Lane lane, double rate);
  void tell_lanes();
  void decide();
  void note(const std::string& why);

  const HandshakeTerms& terms_;
  const Clock& clock_;
  const Send send_;
  const TestPull test_pull_;
  State state_ = State::kHello;
  bool started_ = false;
  HelloFrame remote_;
  std::string failure_;
  RefuseFrame::Code failure_code_ = RefuseFrame::Code::kMismatch;
  bool refused_by_peer_ = false;

  std::unique_ptr<PeerPool> peer_pool_;
  uint8_t working_ = 0;  // lanes that brought the test bytes here
  std::optional<uint8_t> peer_working_;
  std::string peer_detail_;
  std::string detail_;
  bool told_ = false;
  bool tested_latency_ = false;
  bool served_probe_ = false;
  Instant sent_at_{};
  std::optional<StreamTest> stream_test_;
  Lane lane_ = Lane::kStream;
  std::map<Lane, double> rates_;  // of lanes that work
  std::map<Lane, std::unique_ptr<PeerMemory>> memories_;
  size_t next_pull_ = 0;  // of terms_.pulls: to be tested
  Duration latency_{};
};

// The piece checksum of one run.
uint32_t checksum_of(std::span<const std::byte> bytes);

}  // namespace baton::transport
