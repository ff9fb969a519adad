#include "transport/data/handshake.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "transport/data/checksum.h"

namespace baton::transport {
namespace {

std::string differs(std::string_view what, std::string_view mine, std::string_view theirs) {
  return cat(what, ": here ", mine, ", peer ", theirs);
}

Lane best_of(uint8_t mask, const std::vector<PullLane*>& pulls) {
  if (contains(mask, Lane::kLocal)) return Lane::kLocal;
  for (const PullLane* pull : pulls)
    if (contains(mask, pull->lane())) return pull->lane();
  return Lane::kStream;
}

std::string name_of(const WorkerRef& ref) { return cat(ref.name, "/", ref.incarnation.value()); }

}  // namespace

uint32_t checksum_of(std::span<const std::byte> bytes) {
  PieceChecksum sum;
  sum.add(bytes);
  return sum.value();
}

HelloFrame Handshake::hello(const WorkerRef& expected) const {
  std::vector<LaneTicket> tickets;
  for (const PullLane* pull : terms_.pulls) tickets.push_back({pull->lane(), pull->ticket()});
  return {.identity = terms_.identity,
          .expected = expected,
          .lanes = terms_.lanes.mask(),
          .checksum = terms_.checksum,
          .pool = terms_.pool,
          .probe_checksum = terms_.probe_checksum,
          .tickets = std::move(tickets)};
}

void Handshake::start(const WorkerRef& expected) {
  started_ = true;
  remote_.identity.self = expected;
  send_(hello(expected), {});
}

void Handshake::accept(const HelloFrame& theirs) {
  remote_ = theirs;
  if (const std::string why = mismatch(theirs); !why.empty())
    return refuse(RefuseFrame::Code::kMismatch, why);
  send_(hello(theirs.identity.self), {});
  verify();
}

void Handshake::refuse(RefuseFrame::Code code, const std::string& reason) {
  state_ = State::kFailed;
  failure_ = reason;
  failure_code_ = code;
  send_(RefuseFrame{.code = code, .reason = reason}, {});
}

std::string Handshake::mismatch(const HelloFrame& theirs) const {
  const DataIdentity& mine = terms_.identity;
  const DataIdentity& other = theirs.identity;
  if (other.protocol_version != mine.protocol_version)
    return differs("data protocol version", cat(mine.protocol_version), cat(other.protocol_version));
  if (theirs.expected != mine.self)
    return differs("worker and incarnation", name_of(mine.self), cat("wants ", name_of(theirs.expected)));
  if (other.kv_layout_hash != mine.kv_layout_hash)
    return differs("KV layout", mine.kv_layout_hash, other.kv_layout_hash);
  if (other.model_hash != mine.model_hash) return differs("model", mine.model_hash, other.model_hash);
  if (other.numerics_id != mine.numerics_id) return differs("numerics", mine.numerics_id, other.numerics_id);
  if (theirs.checksum != terms_.checksum) return "piece checksums: on at one side only";
  if ((theirs.lanes & terms_.lanes.mask()) == 0)
    return differs("lanes", lane_names(terms_.lanes.mask(), terms_.stream_lane),
                   lane_names(theirs.lanes, terms_.stream_lane));
  return "";
}

bool Handshake::on_frame(const FrameBody& frame, std::span<const std::byte> payload) {
  if (const auto* refusal = std::get_if<RefuseFrame>(&frame)) {
    state_ = State::kFailed;
    failure_code_ = refusal->code;
    refused_by_peer_ = true;
    failure_ = cat("refused by the peer: ", refusal->reason);
    return true;
  }
  if (const auto* answer = std::get_if<HelloFrame>(&frame)) return on_hello(*answer);
  if (state_ == State::kHello) return false;
  if (const auto* ping = std::get_if<PingFrame>(&frame)) {
    send_(PongFrame{.number = ping->number}, {});
    return true;
  }
  if (const auto* pong = std::get_if<PongFrame>(&frame)) return on_pong(*pong);
  if (const auto* request = std::get_if<ProbeRequestFrame>(&frame)) return on_probe_request(*request);
  if (const auto* probe = std::get_if<ProbeFrame>(&frame)) return on_probe(*probe, payload);
  if (const auto* lanes = std::get_if<LanesFrame>(&frame)) return on_lanes(*lanes);
  return false;
}

bool Handshake::on_hello(const HelloFrame& theirs) {
  if (!started_ || state_ != State::kHello) return false;
  const WorkerRef wanted = remote_.identity.self;
  remote_ = theirs;
  if (theirs.identity.self != wanted) {
    refuse(RefuseFrame::Code::kMismatch,
           differs("worker and incarnation", cat("wanted ", name_of(wanted)), name_of(theirs.identity.self)));
  } else if (const std::string why = mismatch(theirs); !why.empty()) {
    refuse(RefuseFrame::Code::kMismatch, why);
  } else {
    verify();
  }
  return true;
}

void Handshake::verify() {
  state_ = State::kVerifying;
  if (!terms_.missing.empty()) note(terms_.missing);
  if (contains(terms_.lanes.mask() & remote_.lanes, Lane::kLocal)) try_local();
  send_(PingFrame{.number = 0}, {});
}

void Handshake::note(const std::string& why) { detail_ += cat(detail_.empty() ? "" : "; ", why); }

void Handshake::try_local() {
  if (terms_.identity.host_id.empty() || terms_.identity.host_id != remote_.identity.host_id)
    return note("local: another host, PID or network namespace");
  auto pool = PeerPool::map(remote_.pool);
  if (!pool.ok()) return note(cat("local: ", std::string(pool.status().message())));
  const auto rate = test_local(**pool, remote_.probe_checksum, clock_);
  if (!rate.ok()) return note(cat("local: ", std::string(rate.status().message())));
  peer_pool_ = *std::move(pool);
  works(Lane::kLocal, *rate);
}

void Handshake::works(Lane lane, double rate) {
  working_ |= static_cast<uint8_t>(lane);
  rates_[lane] = rate;
}

// The pull lanes that both allow, one after the other; then it is told what works.
void Handshake::test_pulls() {
  for (; next_pull_ < terms_.pulls.size(); ++next_pull_) {
    PullLane& lane = *terms_.pulls[next_pull_];
    if (!contains(terms_.lanes.mask() & remote_.lanes, lane.lane())) continue;
    const auto ticket = std::ranges::find(remote_.tickets, lane.lane(), &LaneTicket::lane);
    auto memory =
        ticket == remote_.tickets.end()
            ? absl::StatusOr<std::unique_ptr<PeerMemory>>(absl::NotFoundError("the peer has no ticket"))
            : lane.open(ticket->text);
    if (memory.ok() && (*memory)->bytes() != kPoolStart + remote_.pool.pool_bytes)
      memory = absl::InvalidArgumentError("another pool than was told");
    if (memory.ok()) return test_pull_(*(memories_[lane.lane()] = *std::move(memory)));
    note(cat(lane.name(), ": ", std::string(memory.status().message())));
  }
  tell_lanes();
}

void Handshake::pull_tested(const absl::StatusOr<double>& rate) {
  if (told_ || state_ != State::kVerifying || next_pull_ >= terms_.pulls.size()) return;
  PullLane& lane = *terms_.pulls[next_pull_++];
  if (rate.ok()) {
    works(lane.lane(), *rate);
  } else {
    note(cat(lane.name(), ": ", std::string(rate.status().message())));
    memories_.erase(lane.lane());
  }
  test_pulls();
}

// The first ping warms the connection up, the second is timed.
bool Handshake::on_pong(const PongFrame& pong) {
  if (told_ || tested_latency_ || state_ != State::kVerifying) return false;
  if (pong.number == 0) {
    sent_at_ = clock_.now();
    send_(PingFrame{.number = 1}, {});
    return true;
  }
  latency_ = (clock_.now() - sent_at_) / 2;
  tested_latency_ = true;
  if (!contains(terms_.lanes.mask() & remote_.lanes, Lane::kStream)) {
    test_pulls();
    return true;
  }
  stream_test_.emplace(terms_.probe_frame_bytes, clock_);
  send_(stream_test_->request(), {});
  return true;
}

bool Handshake::on_probe_request(const ProbeRequestFrame& request) {
  if (served_probe_ || request.bytes == 0 || request.bytes % 64 != 0 ||
      request.bytes > terms_.probe.size() / 2)
    return false;
  served_probe_ = true;
  for (uint32_t i = 0; i < kProbeFrames; ++i) {
    const auto part = terms_.probe.subspan((i % 2) * request.bytes, request.bytes);
    send_(ProbeFrame{.index = i, .checksum = checksum_of(part)}, part);
  }
  return true;
}

bool Handshake::on_probe(const ProbeFrame& probe, std::span<const std::byte> payload) {
  if (told_ || !stream_test_ || stream_test_->over() || !stream_test_->take(probe, payload)) return false;
  if (!stream_test_->over()) return true;
  if (const auto rate = stream_test_->result(); rate.ok()) {
    works(Lane::kStream, *rate);
  } else {
    note(cat(terms_.stream_lane, ": ", std::string(rate.status().message())));
  }
  test_pulls();
  return true;
}

void Handshake::tell_lanes() {
  told_ = true;
  send_(LanesFrame{.mask = working_, .detail = detail_.substr(0, kMaxReason)}, {});
  decide();
}

bool Handshake::on_lanes(const LanesFrame& lanes) {
  if (peer_working_) return false;
  peer_working_ = lanes.mask;
  peer_detail_ = lanes.detail;
  decide();
  return true;
}

void Handshake::decide() {
  if (!told_ || !peer_working_ || state_ != State::kVerifying) return;
  if (!peer_detail_.empty()) note(cat("peer: ", peer_detail_));
  const uint8_t both = working_ & *peer_working_;
  if (both == 0) {
    return refuse(
        RefuseFrame::Code::kMismatch,
        cat("no lane works both ways (allowed here: ", lane_names(terms_.lanes.mask(), terms_.stream_lane),
            ", peer: ", lane_names(remote_.lanes, terms_.stream_lane), "): ", detail_));
  }
  lane_ = best_of(both, terms_.pulls);
  std::erase_if(memories_, [this](const auto& memory) { return memory.first != lane_; });
  state_ = State::kReady;
}

}  // namespace baton::transport
