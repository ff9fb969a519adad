#include "cli/bench/transfer_lane.h"

#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transport/data/host_id.h"
#include "transport/data/process_data_plane.h"

namespace baton::cli {
namespace {

using transport::DataPlane;
using transport::PoolRun;

constexpr uint64_t kWindowBytes = 8 << 20;  // under way at a time, as a worker allows
constexpr auto kLongestWait = std::chrono::seconds(1);

constexpr const char* kTlsLane = "socket-tls";

std::unique_ptr<DataPlane> make_plane(const std::string& name, const std::string& host,
                                      const LaneOptions& options) {
  auto lanes = transport::parse_lanes(options.lane == kTlsLane ? "socket" : options.lane);
  BATON_CHECK(lanes.ok());
  auto plane = transport::make_process_data_plane(
      {.identity = {.self = {name, Incarnation(1)}, .host_id = transport::host_id()},
       .callers = transport::Callers::kAnybody,
       .listen_host = host,
       .lanes = *lanes,
       .tls = options.lane == kTlsLane ? options.tls : std::nullopt,
       .pool_bytes = options.pool_bytes,
       .checksum = options.checksum});
  BATON_CHECK(plane.ok(), std::string(plane.status().message()).c_str());
  return *std::move(plane);
}

// The offers' header is the size of a piece.
class Receiver final : public transport::DataPlaneListener {
 public:
  explicit Receiver(DataPlane& plane) : plane_(plane) { plane.set_listener(*this); }
  void run() {
    const SteadyClock clock;
    while (true)
      if (plane_.do_work(clock.now()) == 0) plane_.wait(kLongestWait);
  }
  void on_peer(const transport::PeerEvent&) override {}
  void on_message(const WorkerRef&, std::span<const std::byte>) override {}
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef&, std::span<const std::byte> header,
                                                uint64_t bytes) override {
    uint64_t piece = 0;
    if (header.size() != sizeof piece) return absl::InvalidArgumentError("no size of a piece");
    std::memcpy(&piece, header.data(), sizeof piece);
    std::vector<PoolRun> places;
    for (uint64_t at = 0; at < bytes; at += piece)
      places.push_back({.offset = rng_.below(plane_.pool().size() / piece) * piece, .bytes = piece});
    return places;
  }
  bool still_wanted(const WorkerRef&, std::span<const std::byte>) override { return true; }
  absl::Status on_landed(const WorkerRef&, std::span<const std::byte>, const absl::Status& moved) override {
    return moved;
  }
  void on_answer(const WorkerRef&, uint64_t, const absl::Status&) override {}

 private:
  DataPlane& plane_;
  Rng rng_{7};
};

// Offers random pieces and counts the answers.
class Sender final : public transport::DataPlaneListener {
 public:
  explicit Sender(DataPlane& plane) : plane_(plane) { plane.set_listener(*this); }
  void connect(const std::string& address) {
    BATON_CHECK(plane_.connect({.ref = peer_, .data_address = address}, clock_.now()).ok());
    while (!plane_.connected(peer_)) turn();
  }
  double seconds_for(const MoveOrder& order) {
    const uint64_t pieces = std::max<uint64_t>(1, plane_.max_piece_bytes(peer_) / order.piece);
    const uint64_t per_offer = pieces * order.piece;
    const auto header = std::as_bytes(std::span(&order.piece, 1));
    const Instant begin = clock_.now();
    under_way_ = 0;
    for (uint64_t offered = 0; offered < order.total || under_way_ > 0; turn()) {
      while (offered < order.total && (under_way_ == 0 || under_way_ + per_offer <= kWindowBytes)) {
        runs_.clear();
        for (uint64_t i = 0; i < pieces; ++i)
          runs_.push_back(
              {.offset = rng_.below(plane_.pool().size() / order.piece) * order.piece, .bytes = order.piece});
        BATON_CHECK(plane_.offer(peer_, {.cookie = ++offers_, .header = header, .runs = runs_}).ok());
        offered += per_offer;
        under_way_ += per_offer;
        per_answer_ = per_offer;
      }
    }
    return to_seconds(clock_.now() - begin);
  }
  void on_peer(const transport::PeerEvent& event) override {
    BATON_CHECK(event.kind == transport::PeerEvent::Kind::kConnected, event.detail.c_str());
  }
  void on_message(const WorkerRef&, std::span<const std::byte>) override {}
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef&, std::span<const std::byte>,
                                                uint64_t) override {
    return absl::UnimplementedError("sends only");
  }
  bool still_wanted(const WorkerRef&, std::span<const std::byte>) override { return false; }
  absl::Status on_landed(const WorkerRef&, std::span<const std::byte>, const absl::Status& moved) override {
    return moved;
  }
  void on_answer(const WorkerRef&, uint64_t, const absl::Status& verdict) override {
    BATON_CHECK(verdict.ok(), std::string(verdict.message()).c_str());
    under_way_ -= per_answer_;
  }

 private:
  void turn() {
    if (plane_.do_work(clock_.now()) == 0) plane_.wait(kLongestWait);
  }
  const SteadyClock clock_;
  DataPlane& plane_;
  const WorkerRef peer_{"receiver", Incarnation(1)};
  Rng rng_{8};
  std::vector<PoolRun> runs_;
  uint64_t offers_ = 0;
  uint64_t per_answer_ = 0;
  uint64_t under_way_ = 0;
};

}  // namespace

bool is_bench_lane(const std::string& lane) {
  return lane == kTlsLane || (lane != "auto" && transport::parse_lanes(lane).ok());
}

bool goes_between_machines(const std::string& lane) {
  return is_bench_lane(lane) && lane != "local" && lane != kTlsLane;
}

bool goes_without_checksums(const std::string& lane) { return lane != "am" && !lane.starts_with("get"); }

MovePair lane_pair(const LaneOptions& options) {
  const auto send = [=](const MovePipe& pipe, const std::string& address) {
    const auto plane = make_plane("sender", options.sender, options);
    Sender sender(*plane);
    sender.connect(address);
    for (MoveOrder order; pipe.next(order);) pipe.done(sender.seconds_for(order));
  };
  const auto receive = [=](const std::function<void(const std::string&)>& ready) {
    const auto plane = make_plane("receiver", options.receiver, options);
    Receiver receiver(*plane);
    ready(plane->address());
    receiver.run();
  };
  return {.sender = send, .receiver = receive};
}

}  // namespace baton::cli
