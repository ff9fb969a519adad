#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/data/data_plane.h"
#include "transport/data/ipc_lane.h"
#include "transport/data/session.h"
#include "transport/data/staged_lane.h"

namespace baton::transport {

struct DeviceLanes {
  std::string host_id;
  bool ipc = true;  // may be used; `staged` always may
};

// The data plane of a worker whose KV lies on a GPU: over a plane between host memories, which brings
// messages and, on lane `staged`, the bytes (its pool is where blocks of the device have their places). Peers
// of the same machine map each other's pool when they meet, and the receiver copies: lane `ipc`. Both ends
// are one of these: the KV layout, which has to be equal, says so.
//
// Runs are offsets in the device's pool, whose size is the inner pool's. Copies are done when a call returns,
// so an aborted transfer is over when its receiver says so, and a pool is unmapped before its owner's end is
// told. There is no checksum on `ipc`: bytes do not leave the machine's GPUs; incarnation and generations are
// checked after the copy as on every lane. Path: step 8. Thread: as DataPlane. Owns the inner plane; borrows
// device and clock.
class DeviceDataPlane final : public DataPlane, private DataPlaneListener {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceDataPlane>> make(std::unique_ptr<DataPlane> inner,
                                                               kernels::Device& device, DeviceLanes lanes,
                                                               const Clock& clock);
  ~DeviceDataPlane() override;

  std::span<std::byte> pool() override { return inner_->pool(); }
  const std::string& address() const override { return inner_->address(); }
  void set_listener(DataPlaneListener& listener) override { owner_ = &listener; }
  absl::Status connect(const WorkerDescription& peer, Instant now) override;
  void let_in(const WorkerRef& peer) override { inner_->let_in(peer); }
  void fence(const WorkerRef& peer) override;
  void disconnect(const WorkerRef& peer, const std::string& reason) override {
    inner_->disconnect(peer, reason);
  }
  void doubt(const WorkerRef& peer) override { inner_->doubt(peer); }
  absl::Status send(const WorkerRef& peer, std::span<const std::byte> message) override;
  absl::Status offer(const WorkerRef& peer, const PieceOffer& piece) override;
  bool connected(const WorkerRef& peer) const override { return find(peer) != nullptr; }
  bool hung_up(const WorkerRef& peer) const override { return !find(peer) || inner_->hung_up(peer); }
  std::string lane(const WorkerRef& peer) const override;
  double bytes_per_second(const WorkerRef& peer) const override;
  size_t max_piece_bytes(const WorkerRef& peer) const override;
  bool lands_by_itself(const WorkerRef& peer) const override {
    const Peer* met = find(peer);
    return met && !met->ipc && inner_->lands_by_itself(peer);
  }
  int do_work(Instant now) override;
  Instant next_deadline() const override;
  void wait(Duration timeout) override { inner_->wait(timeout); }
  void wake() override { inner_->wake(); }
  DataPlaneCounters counters() const override;

 private:
  struct Peer {
    std::optional<PeerEvent> met;  // what the inner plane said
    Instant deadline = kNever;     // of the two words
    bool answered = false;         // its card
    std::shared_ptr<IpcPool> pool;
    std::optional<LaneWord> word;
    bool ready = false;
    bool ipc = false;
    std::string detail;
    std::deque<OfferWord> offers;
    OfferRate rate;
  };
  // An offer while its bytes are copied.
  struct Landing {
    OfferWord offer;
    absl::Status moved;
  };

  DeviceDataPlane(std::unique_ptr<DataPlane> inner, kernels::Device& device, DeviceLanes lanes,
                  const Clock& clock, DeviceCopier copier);
  const Peer* find(const WorkerRef& peer) const;
  void forget(const WorkerRef& peer);
  absl::Status say(const WorkerRef& peer, const DeviceWord& word);
  void hear(const WorkerRef& from, const OwnerWord& word);
  void hear(const WorkerRef& from, const CardWord& word);
  void hear(const WorkerRef& from, const LaneWord& word);
  void hear(const WorkerRef& from, OfferWord& word);
  void hear(const WorkerRef& from, const AnswerWord& word);
  absl::Status map_pool(const CardWord& card, Peer& peer);
  void settle(const WorkerRef& ref, Peer& peer);
  PeerEvent described(const WorkerRef& ref, const Peer& peer, PeerEvent event) const;
  int run_deadlines(Instant now);
  int land_offers();
  int land(const WorkerRef& from);
  absl::Status begin_copy(const WorkerRef& from, const OfferWord& offer, const IpcPool& pool);
  absl::Status check_runs(std::span<const PoolRun> runs, uint64_t bytes, uint64_t pool_bytes) const;

  void on_peer(const PeerEvent& event) override;
  void on_message(const WorkerRef& from, std::span<const std::byte> message) override;
  absl::StatusOr<std::vector<PoolRun>> on_offer(const WorkerRef& from, std::span<const std::byte> header,
                                                uint64_t bytes) override;
  bool still_wanted(const WorkerRef& from, std::span<const std::byte> header) override;
  absl::Status on_landed(const WorkerRef& from, std::span<const std::byte> header,
                         const absl::Status& moved) override;
  void on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict) override;

  const std::unique_ptr<DataPlane> inner_;
  kernels::Device& device_;
  const DeviceLanes lanes_;
  const Clock& clock_;
  DeviceCopier copier_;
  StagedLane staged_;
  DataPlaneListener* owner_ = nullptr;
  Instant now_{};
  std::map<WorkerRef, Peer> peers_;
  std::map<std::pair<WorkerRef, std::string>, std::vector<PoolRun>> landing_;  // staged: by header
  std::atomic<uint64_t> bytes_landed_{0}, pieces_landed_{0}, pieces_refused_{0}, malformed_{0};
};

}  // namespace baton::transport
