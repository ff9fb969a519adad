#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "worker/kv_transfer/kv_orders.h"
#include "worker/kv_transfer/kv_reslice.h"

namespace baton::worker {

using PeerReportSink = std::function<void(const PeerReport&)>;

struct KvGroupOptions {
  SplitModel model;
  ParallelShape shape;
  // heads_apart() of the layout and whole cache lines a head: some heads of a piece can be sent. `layout` is
  // named where they cannot.
  bool heads_apart = false;
  std::string layout;
  // Where this worker's ranks listen for KV, and on which host: they explain a link that does not come up.
  std::vector<std::string> addresses{};
  std::string host_id{};
};

// What a KvGroup acts on. Calls come from inside its own calls; none may call back at once.
struct KvGroupPorts {
  std::function<void(int rank, const KvOrder& order)> order;  // to a rank of this worker, rank 0 too
  KvEventSink events;                                         // of the worker: what the engine hears
  PeerReportSink peers;                                       // of workers
  std::function<void(const std::string& why)> lost;           // a rank does not answer: this life is over
  HostCopiedSink copied{};                                    // of the worker: what the engine hears
};

// Rank 0's view of hand-overs: one worker to one worker outside, streams between their ranks inside. A
// transfer is cut into streams by the two shapes (kv_reslice.h); every rank is told its own; they end one by
// one, and the worker's one event follows when the last has ended. So blocks are drained when all ranks have
// drained them (design I2). One stream that fails ends the others. A peer is connected when every pair of
// ranks with a stream in common is.
//
// Example, prefill of tensor 2 to decode of pipeline 2: 2 x 2 streams; rank 0 and 1 of the prefill worker
// send to rank 0 and 1 of the decode worker each, half of the heads of half of the layers. In a worker of one
// rank the same code makes one stream to itself.
//
// Copies between the pool and host memory are the same, without a peer: every rank copies its part of a
// block, in the order in which copies were given, and one ends when it has ended on all ranks.
//
// A deterministic state machine (design I6). Thread: progress. Errors: a rank that does not end its streams
// within timers::kTransferCap after it was asked to, or a copy within twice that when it is the next, is
// lost().
class KvGroup {
 public:
  KvGroup(KvGroupOptions options, KvGroupPorts ports);

  void connect(const WorkerDescription& peer);
  void fence(const WorkerRef& peer);
  void expect(const KvGrant& grant, Instant now);
  void abandon(TransferId transfer, Instant now);
  void send(const KvSend& send, Instant now);
  void finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish);
  void cancel(TransferId transfer, Instant now);
  void copy(HostCopy copy, Instant now);

  // The rank can be given orders from now on.
  void on_joined(int rank);
  void on_note(int rank, const KvNote& note, Instant now);
  void on_tick(Instant now);
  Instant next_deadline() const;
  uint64_t unknown_notes() const { return unknown_notes_; }

 private:
  using Pair = std::pair<int, int>;  // own rank, peer's rank
  struct Peer {
    KvAddress address;
    std::vector<KvSlice> in, out;  // to and from this worker
    std::map<Pair, double> pairs;  // that must be connected: the largest share of a hand-over it carries
    std::map<Pair, PeerReport> reports;  // of those that are; with the rate of the test transfer
    std::map<int, double> sends;         // own rank: the share of a hand-over to that worker it sends ...
    std::map<int, double> paces;         // ... and the rate of it, of ranks that have measured one
    std::string hint;                    // said beside an error: what is likely to cause it
    bool connected = false;
    bool receives = false;  // a hand-over of it has landed here
  };
  struct Transfer {
    bool as_source = false;
    std::set<std::pair<int, WorkerRef>> open;  // own rank, peer's rank
    bool over = false;                         // the ranks were asked to end it
    std::string error;
    KvLanded landed;  // of the streams that have
    bool any_landed = false;
    Instant deadline{};
  };
  using Transfers = std::map<TransferId, Transfer>;
  struct Copy {
    HostCopy copy;
    std::set<int> open;  // ranks
    std::string error;
    Instant deadline{};  // of the first
  };

  absl::Status pair_up(const WorkerDescription& from, Peer& peer) const;
  std::string hint(const WorkerDescription& from, const KvAddress& address) const;
  void order_connect(int rank, const WorkerRef& worker, const Peer& peer);
  void on_report(int rank, const PeerReport& report);
  void on_pace(int rank, const KvPaceNote& note);
  void note_received(const WorkerRef& their_rank);
  PeerReport summary(const WorkerRef& worker, const Peer& peer) const;
  double seconds_a_byte(const Peer& peer) const;
  void start(TransferId id, bool as_source, Instant now);
  std::vector<std::vector<KvLink>> links(const WorkerRef& worker, bool as_source) const;
  void end_all(Transfers::iterator it, const std::string& why, Instant now);
  void close(Transfers::iterator it);
  void on_landed(Transfers::iterator it, const KvLanded& landed);
  void on_event(int rank, const KvStreamNote& note, Instant now);
  void on_copied(int rank, const HostCopied& copied, Instant now);

  const KvGroupOptions options_;
  const KvGroupPorts ports_;
  const std::vector<KvPart> own_;
  std::set<int> joined_;
  std::map<WorkerRef, Peer> peers_;
  std::map<WorkerRef, std::pair<WorkerRef, int>> ranks_;  // of peers: worker and rank
  Transfers transfers_;
  std::deque<Copy> copies_;  // under way, oldest first
  uint64_t unknown_notes_ = 0;
};

}  // namespace baton::worker
