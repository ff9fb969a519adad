#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/kv_transfer/kv_pace.h"
#include "worker/kv_transfer/kv_sink.h"

namespace baton::worker {

// The sending half of one rank of a prefill worker: offers what is computed to who was granted it, a bounded
// amount at a time. Grant and send() come in either order. Pieces are (blocks computed since the last offer)
// x (one layer), only whole blocks until finish(), which adds the last one. Example, block_tokens 16, prompt
// 40, first_block 1, chunks of 24 and 16 tokens: layer_ready(l, 24) offers block 1? No: block 1 is
// positions 16..31, so nothing yet; layer_ready(l, 40) offers block 1 of layer l; finish() block 2. A piece
// may be read until it is answered: KvDrained waits for that, however the stream ended; a peer that owes an
// answer for too long is disconnected. Thread: progress. Errors: a stream that cannot complete ends with
// KvDrained{error}.
class KvSource {
 public:
  explicit KvSource(const KvTransferScope& scope) : scope_(scope) {}

  // All streams of a transfer, at once: a grant of a rank that is not among them is refused.
  void send(const KvSend& send, std::span<const KvLink> links, Instant now);
  bool sends(TransferId transfer) const;
  // Of all streams of the transfer; layers before this one are ready too.
  void layer_ready(TransferId transfer, int layer, int32_t tokens);
  void finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish, Instant now);
  void cancel(TransferId transfer, Instant now);

  void on_grant(const WorkerRef& from, const KvGrantMessage& grant, Instant now);
  void on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict, Instant now);
  void on_end(const WorkerRef& from, const KvEndMessage& end, Instant now);
  void on_renew(const WorkerRef& from, const KvRenewMessage& renew, Instant now);
  void on_peer_down(const WorkerRef& peer, const std::string& reason, Instant now);
  // Offers as much as the windows take; returns how many pieces.
  int pump(Instant now);
  int on_tick(Instant now);
  Instant next_deadline() const;
  size_t open() const { return transfers_.size(); }
  // Towards workers, all streams of this rank together.
  const std::map<WorkerRef, KvPace>& paces() const { return paces_; }
  // That worker's life is over, and its streams with it.
  void forget(const WorkerRef& worker) { paces_.erase(worker); }

 private:
  struct Transfer {
    KvSend send;
    WorkerRef peer;
    KvPart part;
    int32_t total_blocks = 0;
    std::optional<KvGrantMessage> grant;
    std::vector<int32_t> ready_blocks;  // [layer of this pool], whole blocks computed
    std::vector<int32_t> next_block;    // [layer], first block not yet offered
    int cursor = 0;                     // layer to look at first
    bool queued = false;                // in its window's line
    bool finished = false;
    TokenOutput first_token;
    FinishReason finish = FinishReason::kNone;
    Instant lease{};  // until the receiver (or the engine) must be heard
    Instant deadline{};
  };
  struct Piece {
    TransferId transfer;
    uint64_t bytes = 0;
    Instant deadline{};
    Instant last{};  // of a stream that ended: answers to others do not prolong it further
  };
  // Pieces under way to one peer, and the transfers that wait for room, first come first served piece by
  // piece.
  struct Window {
    WorkerRef worker;  // whose rank the peer is
    uint64_t bytes = 0;
    Instant answered{};                           // the last of them
    absl::flat_hash_map<uint64_t, Piece> pieces;  // by cookie
    std::deque<TransferId> line;
  };
  // A stream that has ended, some of whose pieces are still under way.
  struct Ended {
    std::string error;
    size_t pieces = 0;
  };
  struct EarlyGrant {
    KvGrantMessage grant;
    Instant deadline{};
  };
  using Transfers = std::map<KvStream, Transfer>;

  void start(const KvSend& send, const KvLink& link, Instant now);
  void attach(Transfers::iterator it, KvGrantMessage grant, Instant now);
  std::string misfit(const Transfer& transfer, const KvGrantMessage& grant) const;
  void tell_finish(const Transfer& transfer);
  void tell_end(const WorkerRef& to, TransferId transfer, const std::string& reason);
  void enqueue(Transfer& transfer);
  // False: there is nothing to offer now.
  absl::StatusOr<bool> offer_next(Transfer& transfer, Window& window, Instant now);
  absl::Status offer(Transfer& transfer, Window& window, int layer, Instant now);
  enum class TellSink : uint8_t { kNo, kYes };
  void end(Transfers::iterator it, const std::string& error, TellSink tell, Instant now);
  void drained(const KvStream& stream, const std::string& error);
  void remember_ended(const KvStream& stream);
  void end_early_grants(Instant now);
  void renew(Instant now);

  const KvTransferScope& scope_;
  Transfers transfers_;
  std::map<KvStream, EarlyGrant> early_;  // grants of transfers that were not submitted here yet
  std::map<WorkerRef, Window> windows_;
  std::map<KvStream, Ended> under_way_;  // of these KvDrained is still to be said
  std::map<WorkerRef, KvPace> paces_;
  // The last streams that ended here, so that what crosses an end on the wire is answered at once: a grant
  // after cancel(), a send() after the receiver's abandon.
  std::set<KvStream> ended_;
  std::deque<KvStream> ended_order_;
  uint64_t cookies_ = 0;
  Instant renew_at_ = kNever;
};

}  // namespace baton::worker
