#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "worker/kv_transfer/kv_layout.h"
#include "worker/kv_transfer/kv_stream.h"
#include "worker/kv_transfer/kv_wire.h"

namespace baton::worker {

// Written by the progress thread, read by any.
struct KvTransferCounters {
  using Count = std::atomic<uint64_t>;
  Count landed{0};  // streams received whole
  Count failed{0};  // streams that were to be received and were not
  Count sent{0};    // streams the receiver confirmed
  Count send_failed{0};
  Count bytes_received{0};
  Count refused_pieces{0};  // forged, late, of another generation, out of range
  Count corrupt_pieces{0};  // checksum
  Count malformed_messages{0};
  Count unknown_transfers{0};  // messages about transfers that are not (or no longer) here
  Count deadlines{0};          // transfers ended by a deadline
};

// What both halves work with. Borrowed for life.
struct KvTransferScope {
  transport::DataPlane& plane;
  const kernels::KvGeometry geometry;
  const KvPart own;  // what the pool holds of the model
  const KvStreamEvents& events;
  KvTransferCounters& counters;

  uint64_t block_bytes(const KvPart& part) const {
    return static_cast<uint64_t>(part.heads()) * head_bytes(geometry);
  }
  // Where `part` of the model's `layer` lies.
  std::vector<transport::PoolRun> runs(const KvPart& part, int layer, std::span<const BlockId> blocks) const {
    return pool_runs(geometry, layer - own.first_layer, blocks, slice_run(own, part, head_bytes(geometry)));
  }
};

// The receiving half of one rank of a decode worker: grants, checks every piece against its grant, knows when
// all of a stream has landed. Pieces are copied on this thread, and only while expects() says so, so the
// moment a stream is forgotten nobody can touch its blocks; where pieces land by themselves (lane `get`) it
// is drained when the last of them has. Thread: progress. Errors: a stream that cannot complete ends with
// KvFailed and KvDrained.
class KvSink {
 public:
  explicit KvSink(const KvTransferScope& scope) : scope_(scope) {}

  // One stream of the grant: `link` says from which rank and what.
  void expect(const KvGrant& grant, const KvLink& link, Instant now);
  // All streams of the transfer.
  void abandon(TransferId transfer, Instant now);

  absl::StatusOr<std::vector<transport::PoolRun>> on_offer(const WorkerRef& from, const KvPieceHeader& header,
                                                           uint64_t bytes, Instant now);
  // Pieces of this transfer may be written: its blocks are granted to that peer.
  bool expects(const WorkerRef& from, TransferId transfer) { return find(transfer, from) != nullptr; }
  absl::Status on_landed(const WorkerRef& from, const KvPieceHeader& header, const absl::Status& moved,
                         Instant now);
  void on_finish(const WorkerRef& from, const KvFinishMessage& finish, Instant now);
  void on_end(const WorkerRef& from, const KvEndMessage& end, Instant now);
  void on_renew(const WorkerRef& from, const KvRenewMessage& renew, Instant now);
  void on_peer_down(const WorkerRef& peer, const std::string& reason, Instant now);
  int on_tick(Instant now);
  Instant next_deadline() const;
  size_t open() const { return transfers_.size(); }

 private:
  struct Transfer {
    KvGrant grant;
    int32_t total_blocks = 0;  // of the prompt
    WorkerRef peer;
    KvPart part;
    std::vector<bool> placed;  // [layer - part.first_layer][block - first_block]: a piece was accepted ...
    std::vector<bool> landed;  // ... and is here
    size_t missing = 0;
    std::optional<KvFinishMessage> finish;
    Instant heard{};     // from the source, about this transfer
    Instant deadline{};  // whatever is heard
    Instant first_offer = kNever;
    Instant last_landed{};
    Instant finish_arrived{};
    uint64_t bytes = 0;
    std::string lane;
  };
  using Transfers = std::map<KvStream, Transfer>;

  Transfer* find(TransferId transfer, const WorkerRef& from);
  absl::Status check_piece(const Transfer& transfer, const KvPieceHeader& header, uint64_t bytes,
                           const std::vector<bool>& had) const;
  size_t index(const Transfer& transfer, int32_t layer, int32_t block) const;
  void mark(const Transfer& transfer, const KvPieceHeader& header, std::vector<bool>& bits) const;
  void complete_if_whole(Transfers::iterator it, Instant now);
  void fail(Transfers::iterator it, const std::string& reason, bool tell_source, Instant now);
  void tell_end(const WorkerRef& to, TransferId transfer, bool ok, const std::string& reason);
  TransferReport report(const Transfer& transfer, Instant now) const;
  void drained(const KvStream& stream, const std::string& why);
  void landing_over(const KvStream& stream);
  void renew(Instant now);

  const KvTransferScope& scope_;
  Transfers transfers_;
  std::map<KvStream, size_t> landing_;                 // pieces that land by themselves, under way
  std::map<KvStream, std::string> drained_when_over_;  // streams that ended before these: why
  Instant renew_at_ = kNever;
};

}  // namespace baton::worker
