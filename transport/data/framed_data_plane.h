#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "transport/data/data_plane.h"
#include "transport/data/frames.h"
#include "transport/data/handshake.h"
#include "transport/data/links.h"
#include "transport/data/pull_lane.h"
#include "transport/data/reads.h"

namespace baton::transport {

// DataPlane over any Links: handshakes, who may connect, offers, landing, answers. Knows no fabric; UCX,
// sockets and loopback differ in their Links only. One connection per pair: when both connect at once, the
// one made by the smaller name stays. Thread: progress. Owns: pool, links, one Session per connection.
class FramedDataPlane final : public DataPlane, private LinksListener {
 public:
  // `pool` made by SharedPool::create().
  // `clock` measures rates only; deadlines go by the `now` of do_work(). None: the machine's.
  FramedDataPlane(const DataPlaneOptions& options, std::unique_ptr<SharedPool> pool,
                  std::unique_ptr<Links> links, const Clock* clock = nullptr, PullLanes pulls = {});
  ~FramedDataPlane() override;

  std::span<std::byte> pool() override { return pool_->bytes(); }
  const std::string& address() const override { return links_->address(); }
  void set_listener(DataPlaneListener& listener) override { listener_ = &listener; }
  absl::Status connect(const WorkerDescription& peer, Instant now) override;
  void let_in(const WorkerRef& peer) override;
  void fence(const WorkerRef& peer) override;
  void disconnect(const WorkerRef& peer, const std::string& reason) override;
  void doubt(const WorkerRef& peer) override;
  absl::Status send(const WorkerRef& peer, std::span<const std::byte> message) override;
  absl::Status offer(const WorkerRef& peer, const PieceOffer& piece) override;
  bool connected(const WorkerRef& peer) const override { return find(peer) != nullptr; }
  bool hung_up(const WorkerRef& peer) const override;
  std::string lane(const WorkerRef& peer) const override;
  double bytes_per_second(const WorkerRef& peer) const override;
  size_t max_piece_bytes(const WorkerRef& peer) const override;
  bool lands_by_itself(const WorkerRef& peer) const override;
  int do_work(Instant now) override;
  Instant next_deadline() const override;
  void wait(Duration timeout) override;
  void wake() override { links_->wake(); }
  DataPlaneCounters counters() const override;

 private:
  struct Session;
  struct Wanted {  // a connect() that was not answered yet
    std::string address;
    Instant deadline;
    Instant retry_at = kNever;
    int retries = 0;
  };
  struct Counters;

  void on_accepted(LinkId link) override;
  Landing* on_payload(LinkId link, std::span<const std::byte> head, uint64_t bytes) override;
  void on_frame(LinkId link, std::span<const std::byte> head, std::span<const std::byte> payload) override;
  void on_closed(LinkId link, const std::string& reason) override;

  // frames of a session
  void in_handshake(Session& session, const FrameBody& frame, std::span<const std::byte> payload);
  void on_hello(Session& session, const HelloFrame& hello);
  void in_service(Session& session, FrameBody& frame, std::span<const std::byte> payload);
  void on_offer(Session& session, OfferFrame& offer, std::span<const std::byte> payload);
  void on_answer(Session& session, const AnswerFrame& answer);
  void violation(Session& session, const std::string& what);
  void ask_for_life(Session& session);

  // landing
  int run_copies();
  void land(Session& session, const OfferFrame& offer, std::span<const std::span<const std::byte>> source);
  absl::StatusOr<std::vector<PoolRun>> place(Session& session, const OfferFrame& offer);
  void conclude(Session& session, const OfferFrame& offer, const absl::Status& moved);
  void finish_landing(Session& session);
  absl::Status check_runs(const OfferFrame& offer, uint64_t pool_bytes) const;
  absl::Status move(const OfferFrame& offer, std::span<const std::span<const std::byte>> source,
                    std::span<const PoolRun> places);
  void answer(Session& session, uint64_t cookie, const absl::Status& verdict);

  // landing by a pull lane
  struct Pull;
  void fetch(Session& session, OfferFrame offer);
  void pull(Session& session, OfferFrame offer);
  void pulled(Pull& pull, const absl::Status& read);
  absl::Status verify(const Pull& pull) const;
  void test_pull(Session& session, PeerMemory& memory);
  struct PullTest;
  void read_test_data(std::shared_ptr<PullTest> test);
  void on_test_data(std::shared_ptr<PullTest> test, const absl::Status& read);
  void pull_tested(Session& session, const absl::StatusOr<double>& rate);
  int poll_pulls();

  // lanes that have become slow
  Instant lane_check_due(const Session& session) const;
  void check_lanes();
  void on_check_lane(Session& session);
  void on_test_frame(Session& session, const ProbeFrame& frame, std::span<const std::byte> payload);
  void lane_tested(Session& session, const absl::StatusOr<double>& result);
  void on_lane_checked(Session& session, const LaneCheckedFrame& answer);
  void lane_failed(Session& session, const std::string& why);

  // sessions
  std::string lane_name(const Session& session) const;
  Session& open_session(LinkId link, bool outgoing);
  absl::Status start_session(const WorkerRef& peer, const std::string& address);
  void refuse_unnamed(Session& session);
  void settle(Session& session);
  void become_ready(Session& session);
  void end_session(Session& session, const std::string& reason);
  void resolve_wanted(const WorkerRef& peer, const std::string& reason, bool may_retry);
  void run_deadlines();
  void transmit(Session& session, FrameBody body, std::string text,
                std::vector<std::span<const std::byte>> payload);
  PeerEvent connected_event(const Session& session) const;
  Session* find(const WorkerRef& peer) const;
  Session* find_any(const WorkerRef& peer) const;
  bool stale(const WorkerRef& peer) const;
  bool named(const WorkerRef& peer) const;

  const DataPlaneOptions options_;
  const std::unique_ptr<SharedPool> pool_;
  const std::unique_ptr<Links> links_;
  Reads reads_;
  const PullLanes pulls_;  // ends before what its reads write to
  HandshakeTerms terms_;
  const SteadyClock steady_clock_;
  const Clock& clock_;
  DataPlaneListener* listener_ = nullptr;
  Instant now_{};
  std::map<LinkId, std::unique_ptr<Session>> sessions_;
  std::map<WorkerRef, Session*> ready_;
  std::map<WorkerRef, Wanted> wanted_;
  std::map<std::string, Incarnation> named_;     // may connect: this life
  std::map<std::string, Incarnation> newest_;    // verified
  std::map<std::string, Incarnation> fenced_;    // this and earlier lives are over
  std::vector<std::unique_ptr<Session>> ended_;  // freed when nobody is inside any more
  const std::unique_ptr<Counters> counters_;
};

}  // namespace baton::transport
