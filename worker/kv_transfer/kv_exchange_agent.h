#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <variant>
#include <vector>

#include "base/mailbox.h"
#include "worker/kv_transfer/kv_group.h"
#include "worker/kv_transfer/kv_source.h"
#include "worker/parallel/order_fence.h"

namespace baton::worker {

// How far a hand-over is on the receiving worker: its grant is about to go out; half of the model's layers
// are through; the last one comes.
enum class KvPhase : uint8_t { kGrant, kTransfer, kLastLayer };

struct KvExchangeOptions {
  kernels::KvGeometry geometry;  // of this rank; its pool lies at the start of DataPlane::pool()
  std::string layout;            // Backend::kv_layout_name()
  // How the model is split over the ranks of this worker, and which of them this is.
  SplitModel model;
  ParallelShape shape{};
  int rank = 0;
  KvEventSink events;  // rank 0; called on the progress thread
  // The same, of other workers: asked-for, new and lost connections, and connected again when the rate has
  // moved.
  PeerReportSink peers;
  // A word to the progress thread costs its wake-up, and a peer's: often a switch of threads on the core that
  // computes. So it is worth what the slowest peer's link moves in this time, 1 MiB at most: with less,
  // layers are told together, but for the last of a step. On a slow link every layer is worth one.
  Duration word_worth = std::chrono::milliseconds(1);

  // Of a worker of several ranks. The plane's own name is rank_ref(worker, rank).
  WorkerRef worker{};
  KvGroupKey key{};
  std::vector<std::string> addresses{};  // rank 0: of every rank's plane
  std::string host_id{};                 // rank 0
  OrderFence* fence = nullptr;           // other ranks: of their steps (RankLinks)
  HostCopies* host = nullptr;  // this rank's, whose ends come by copied(); null: KV is in the pool only
  int64_t host_slots = 0;
  HostCopiedSink copied{};  // rank 0: of all ranks; called on the progress thread
  std::function<void(const std::string& why)>
      lost{};  // rank 0: a rank is gone, this life of the worker is over

  // Tests break something just then: called on the progress thread before the grant or the piece is looked
  // at.
  std::function<void(KvPhase, TransferId)> on_phase{};
};

// One rank's KvExchange over a data plane. Calls become messages to the progress thread, which owns every
// state and runs the plane:
//   while (running) { if (agent.do_work(clock.now()) == 0) agent.wait(clock.now()); }
// Rank 0 is what the engine sees: it cuts each call into orders for the ranks (KvGroup), itself among them,
// and answers for all. The others take orders from rank 0 over the data plane, tell it what became of them,
// and are called by their own step only: layer_ready(). Copies between the pools of several ranks and host
// memory go the same way.
//
// The window per peer bounds what is under way; the mailbox bounds what waits. Layers are told together until
// they are worth a word (KvExchangeOptions::word_worth); a lost word (box full) costs overlap only:
// finish() covers all layers. Path: steps 7, 8 and 10, from worker/engine, to
// transport/data and back. Thread: KvExchange methods, copy(): engine. connect(), fence(), copied(),
// counters(), wake(): any.
// do_work(), wait(): progress. Errors: every accepted expect() and send() ends as kv_exchange.h says, within
// a deadline (design I4).
class KvExchangeAgent final : public KvExchange, public HostCopies, private transport::DataPlaneListener {
 public:
  // kInvalidArgument when the geometry does not fit the plane's pool or is not that of the rank. `plane` must
  // outlive the agent.
  static absl::StatusOr<std::unique_ptr<KvExchangeAgent>> create(transport::DataPlane& plane,
                                                                 KvExchangeOptions options);

  absl::Status expect(const KvGrant& grant) override;
  void abandon(TransferId transfer) override;
  absl::Status send(const KvSend& send) override;
  void layer_ready(TransferId transfer, int layer, int32_t tokens, int32_t rows) override;
  void finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish) override;
  void cancel(TransferId transfer) override;
  int open_transfers() const override { return open_.load(std::memory_order_relaxed); }
  void copy(HostCopy copy) override;  // of all ranks
  void copied(HostCopied end);        // of this one

  // The result comes as a PeerReport. False: too much waits already.
  bool connect(const WorkerDescription& peer) { return commands_.post(Connect{peer}); }
  bool fence(const WorkerRef& peer) { return commands_.post(Fence{peer}); }

  int do_work(Instant now);
  void wait(Instant now);
  void wake() { plane_.wake(); }
  const KvTransferCounters& counters() const { return counters_; }

 private:
  struct Connect {
    WorkerDescription peer;
  };
  struct Fence {
    WorkerRef peer;
  };
  struct Abandon {
    TransferId transfer;
  };
  struct Finish {
    TransferId transfer;
    TokenOutput first_token;
    FinishReason finish;
  };
  struct Cancel {
    TransferId transfer;
  };
  using Command =
      std::variant<KvGrant, KvSend, Abandon, Finish, Cancel, Connect, Fence, HostCopy, HostCopied>;
  struct LayerReady {
    TransferId transfer;
    int layer;
    int32_t tokens;
  };

  KvExchangeAgent(transport::DataPlane& plane, KvExchangeOptions options, const KvPart& own);
  bool leads() const { return options_.rank == 0; }
  bool heads_apart() const;
  absl::Status check_peer(const WorkerRef& peer);
  absl::Status check_blocks(std::span<const BlockId> blocks) const;
  absl::Status check_grant(const KvGrant& grant) const;
  absl::Status check_send(const KvSend& send) const;
  absl::Status check_links(std::span<const KvLink> links) const;
  absl::Status check_copy(const HostCopy& copy) const;
  absl::Status start(Command command);
  void weigh_words();
  int drain_commands(Instant now);
  void run(Command& command, Instant now);

  // between the ranks
  KvGroupPorts group_ports();
  void order(int rank, const KvOrder& order);
  void obey(const KvOrder& order);
  void obey(const KvExpectOrder& order);
  void obey(const KvSendOrder& order);
  void obey(const KvConnectOrder& order);
  void obey(const KvCopyOrder& order);
  void note(KvNote note);
  int drain_notes(Instant now);
  void tell_engine(KvEvent event);
  void tell_peer(const PeerReport& report);
  void join_ranks(Instant now);
  void on_own_rank(int rank, const transport::PeerEvent& event);
  void on_group_message(const WorkerRef& from, std::span<const std::byte> message);
  void look_at_rate(const WorkerRef& peer);
  void look_at_paces();
  void tell_phase(const KvPieceHeader& piece) const;

  // DataPlaneListener
  void on_peer(const transport::PeerEvent& event) override;
  void on_message(const WorkerRef& from, std::span<const std::byte> message) override;
  absl::StatusOr<std::vector<transport::PoolRun>> on_offer(const WorkerRef& from,
                                                           std::span<const std::byte> header,
                                                           uint64_t bytes) override;
  bool still_wanted(const WorkerRef& from, std::span<const std::byte> header) override;
  absl::Status on_landed(const WorkerRef& from, std::span<const std::byte> header,
                         const absl::Status& moved) override;
  void on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict) override;

  transport::DataPlane& plane_;
  const KvExchangeOptions options_;
  KvTransferCounters counters_;
  const KvStreamEvents stream_events_;
  const KvTransferScope scope_;
  KvSink sink_;
  KvSource source_;
  std::unique_ptr<KvGroup> group_;            // rank 0
  std::map<WorkerRef, int> ranks_;            // of this worker, but this one
  std::map<int, Instant> joins_;              // rank 0: when to connect to a rank (again)
  std::deque<std::pair<int, KvNote>> notes_;  // rank 0: from ranks, itself too, not yet looked at
  Instant now_{};
  struct Told {
    PeerReport report;
    Instant at{};
  };
  std::map<WorkerRef, Told> told_;  // what was last said about connected peers
  struct ToldPace {
    double bytes_per_second = 0;
    Instant at{};
  };
  std::map<WorkerRef, ToldPace> told_paces_;  // of workers
  std::vector<Command> commands_taken_;
  std::vector<LayerReady> layers_taken_;

  std::vector<LayerReady> untold_;  // engine thread: layers, the last of each transfer
  uint64_t untold_bytes_ = 0;
  std::atomic<uint64_t> word_bytes_{0};  // that a word is worth
  std::atomic<int> open_{0};
  std::mutex peers_mutex_;
  std::set<WorkerRef> connected_;  // workers; guarded by peers_mutex_
  Mailbox<Command> commands_;
  Mailbox<LayerReady> layers_;
};

}  // namespace baton::worker
