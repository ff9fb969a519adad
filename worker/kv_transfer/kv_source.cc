#include "worker/kv_transfer/kv_source.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"

namespace baton::worker {
namespace {

using transport::as_bytes;

// Under way to one peer: a quarter of a second's worth, so that on a slow link a deadline means the link and
// not the queue before it.
constexpr uint64_t kMaxWindowBytes = 8 << 20;
constexpr uint64_t kMinWindowBytes = 1 << 20;
constexpr double kWindowSeconds = 0.25;
constexpr size_t kWindowPieces = 64;
constexpr size_t kMaxEarlyGrants = 16'384;
constexpr size_t kMaxEnded = 16'384;
// With the answer to a piece of a transfer that ended.
constexpr Duration kLeastPatience = timers::kQuarantineBeforeTeardown;
constexpr Duration kMostPatience = timers::kTransferCap - timers::kQuarantineBeforeTeardown;

uint64_t window_bytes(double bytes_per_second) {
  const double wanted = std::min(bytes_per_second * kWindowSeconds, static_cast<double>(kMaxWindowBytes));
  return std::max(static_cast<uint64_t>(wanted), kMinWindowBytes);
}

// timers.h: 1 s + bytes / (0.1 x measured rate), at most 10 s. `bytes` counts what is under way before this
// piece.
Duration piece_deadline(uint64_t bytes, double bytes_per_second) {
  const Duration slow = from_seconds(static_cast<double>(bytes) / std::max(0.1 * bytes_per_second, 1e6));
  return std::min<Duration>(timers::kTransferCap, timers::kTransferBase + slow);
}

// What deadlines count with: the slower of two measurements. The plane's begins with the test transfer, which
// went the other way, and a link may be slow in one direction: before any piece was answered a tenth of it.
double slowest(double plane_rate, const KvPace& pace) {
  const double measured = pace.bytes_per_second();
  return measured == 0 ? 0.1 * plane_rate : std::min(plane_rate, measured);
}

}  // namespace

// ---- the engine's calls
// -----------------------------------------------------------------------------------------

void KvSource::send(const KvSend& send, std::span<const KvLink> links, Instant now) {
  for (const KvLink& link : links) start(send, link, now);
}

void KvSource::start(const KvSend& send, const KvLink& link, Instant now) {
  auto [it, fresh] = transfers_.try_emplace({send.transfer, link.peer});
  BATON_CHECK(fresh, "send() twice for one stream");
  Transfer& t = it->second;
  t.send = send;
  t.peer = link.peer;
  t.part = link.part;
  t.total_blocks = blocks_for(scope_.geometry, send.prompt_tokens);
  t.cursor = t.part.first_layer - scope_.own.first_layer;
  t.ready_blocks.assign(static_cast<size_t>(scope_.geometry.layers), 0);
  t.next_block.assign(static_cast<size_t>(scope_.geometry.layers), 0);
  t.deadline = now + timers::kRequestTotal;
  t.lease = t.deadline;
  if (ended_.contains(it->first))
    return end(it, "the receiver gave it up before it was submitted", TellSink::kNo, now);
  if (!scope_.plane.connected(t.peer)) return end(it, "destination is not connected", TellSink::kNo, now);
  const auto early = early_.find(it->first);
  if (early == early_.end()) return;
  KvGrantMessage grant = std::move(early->second.grant);
  early_.erase(early);
  attach(it, std::move(grant), now);
}

// Layers are computed in order, so a word that was lost, or came before the send() it belongs to, is made up
// for by the next.
void KvSource::layer_ready(TransferId transfer, int layer, int32_t tokens) {
  BATON_CHECK(layer >= 0 && layer < scope_.geometry.layers, "layer_ready: no such layer");
  for_streams(transfers_, transfer, [&](Transfers::iterator it) {
    Transfer& t = it->second;
    // Whole blocks only: the rest of a block may still be written, and its bytes are checksummed when
    // offered.
    const int32_t whole = std::min(tokens, t.send.prompt_tokens) / scope_.geometry.block_tokens;
    const int end = std::min(layer + 1, t.part.end_layer - scope_.own.first_layer);
    for (int i = t.part.first_layer - scope_.own.first_layer; i < end; ++i) {
      t.ready_blocks[i] = std::max(t.ready_blocks[i], whole);
      if (t.grant && t.next_block[i] < t.ready_blocks[i]) enqueue(t);
    }
  });
}

void KvSource::finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish, Instant now) {
  for_streams(transfers_, transfer, [&](Transfers::iterator it) {
    Transfer& t = it->second;
    if (t.finished) return;
    t.finished = true;
    t.first_token = first_token;
    t.finish = finish;
    std::fill(t.ready_blocks.begin(), t.ready_blocks.end(), t.total_blocks);
    t.lease = now + timers::kSourceLease;
    if (!t.grant) return;
    tell_finish(t);
    enqueue(t);
  });
}

void KvSource::cancel(TransferId transfer, Instant now) {
  for_streams(transfers_, transfer,
              [&](Transfers::iterator it) { end(it, "cancelled", TellSink::kYes, now); });
}

// ---- grants
// -----------------------------------------------------------------------------------------------------

void KvSource::on_grant(const WorkerRef& from, const KvGrantMessage& grant, Instant now) {
  const KvStream stream{grant.transfer, from};
  const auto it = transfers_.find(stream);
  if (it != transfers_.end()) return attach(it, grant, now);
  if (ended_.contains(stream)) return tell_end(from, grant.transfer, "ended before the grant came");
  if (sends(grant.transfer)) {
    ++scope_.counters.malformed_messages;
    return tell_end(from, grant.transfer, "this is sent to another worker");
  }
  if (early_.size() >= kMaxEarlyGrants || early_.contains(stream))
    return tell_end(from, grant.transfer, "too many grants of unknown transfers");
  early_[stream] = {.grant = grant, .deadline = now + timers::kRequestTotal};
  renew_at_ = std::min(renew_at_, now + timers::kSourceLeaseRenew);
}

bool KvSource::sends(TransferId transfer) const {
  const auto it = transfers_.lower_bound({transfer, {}});
  return it != transfers_.end() && it->first.transfer == transfer;
}

std::string KvSource::misfit(const Transfer& t, const KvGrantMessage& grant) const {
  if (t.grant) return "granted twice";
  const int64_t granted = static_cast<int64_t>(grant.generations.size());
  if (grant.prompt_tokens != t.send.prompt_tokens || grant.first_block < 0 ||
      grant.first_block + granted != t.total_blocks)
    return cat("grant of blocks ", grant.first_block, "+", granted, " for ", grant.prompt_tokens,
               " tokens, the prompt has ", t.send.prompt_tokens);
  if (grant.part != t.part)
    return cat("grant of ", to_string(grant.part), ", this sends ", to_string(t.part));
  return "";
}

void KvSource::attach(Transfers::iterator it, KvGrantMessage grant, Instant now) {
  Transfer& t = it->second;
  if (const std::string why = misfit(t, grant); !why.empty()) {
    ++scope_.counters.malformed_messages;
    tell_end(t.peer, grant.transfer, why);
    return end(it, why, TellSink::kNo, now);
  }
  std::fill(t.next_block.begin(), t.next_block.end(), grant.first_block);
  t.grant = std::move(grant);
  t.lease = now + timers::kSourceLease;
  renew_at_ = std::min(renew_at_, now + timers::kSourceLeaseRenew);
  if (t.finished) tell_finish(t);
  enqueue(t);
}

void KvSource::tell_finish(const Transfer& t) {
  const KvFinishMessage message{
      .transfer = t.send.transfer, .first_token = t.first_token, .finish = t.finish};
  scope_.plane.send(t.peer, as_bytes(encode(KvMessage(message)))).IgnoreError();
}

// ---- pieces
// -----------------------------------------------------------------------------------------------------

void KvSource::enqueue(Transfer& t) {
  if (t.queued) return;
  t.queued = true;
  windows_[t.peer].line.push_back(t.send.transfer);
}

int KvSource::pump(Instant now) {
  int offered = 0;
  for (auto& [peer, window] : windows_) {
    const uint64_t room = window_bytes(scope_.plane.bytes_per_second(peer));
    while (!window.line.empty() && window.bytes < room && window.pieces.size() < kWindowPieces) {
      const TransferId id = window.line.front();
      window.line.pop_front();
      const auto it = transfers_.find({id, peer});
      if (it == transfers_.end()) continue;
      it->second.queued = false;
      const absl::StatusOr<bool> done = offer_next(it->second, window, now);
      if (!done.ok() && scope_.plane.connected(peer))  // else on_peer_down() comes
        end(it, cat("cannot be offered: ", std::string(done.status().message())), TellSink::kYes, now);
      if (!done.ok() || !*done) continue;
      ++offered;
      enqueue(it->second);
    }
  }
  return offered;
}

// The lowest layer first that has something: layers become ready in that order, chunk by chunk.
absl::StatusOr<bool> KvSource::offer_next(Transfer& t, Window& window, Instant now) {
  const int layers = t.part.layers();
  const int first = t.part.first_layer - scope_.own.first_layer;
  for (int i = 0; i < layers; ++i) {
    const int layer = first + (t.cursor - first + i) % layers;
    if (t.next_block[layer] >= t.ready_blocks[layer]) continue;
    t.cursor = layer;
    RETURN_IF_ERROR(offer(t, window, layer, now));
    return true;
  }
  return false;
}

absl::Status KvSource::offer(Transfer& t, Window& window, int layer, Instant now) {
  const WorkerRef& peer = t.peer;
  const uint64_t block_bytes = scope_.block_bytes(t.part);
  const size_t fit = std::max<size_t>(1, scope_.plane.max_piece_bytes(peer) / block_bytes);
  const int32_t first = t.next_block[layer];
  const auto count =
      std::min<size_t>({fit, kMaxPieceBlocks, static_cast<size_t>(t.ready_blocks[layer] - first)});
  const auto granted = t.grant->generations.begin() + (first - t.grant->first_block);
  const KvPieceHeader header{.transfer = t.send.transfer,
                             .layer = scope_.own.first_layer + layer,
                             .first_block = first,
                             .generations = {granted, granted + static_cast<std::ptrdiff_t>(count)}};
  const std::string text = encode(header);
  const auto runs = scope_.runs(t.part, header.layer, std::span(t.send.blocks).subspan(first, count));
  const uint64_t cookie = ++cookies_;
  RETURN_IF_ERROR(scope_.plane.offer(peer, {.cookie = cookie, .header = as_bytes(text), .runs = runs}));
  const uint64_t bytes = count * block_bytes;
  t.next_block[layer] += static_cast<int32_t>(count);
  window.worker = t.send.destination;
  window.bytes += bytes;
  KvPace& pace = paces_[t.send.destination];
  pace.offered(now);
  window.pieces[cookie] = {
      .transfer = t.send.transfer,
      .bytes = bytes,
      .deadline = now + piece_deadline(window.bytes, slowest(scope_.plane.bytes_per_second(peer), pace))};
  return absl::OkStatus();
}

void KvSource::on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict, Instant now) {
  Window& window = windows_[peer];
  const auto piece = window.pieces.find(cookie);
  if (piece == window.pieces.end()) return;
  const KvStream stream{piece->second.transfer, peer};
  const uint64_t bytes = piece->second.bytes;
  window.bytes -= bytes;
  window.answered = now;
  window.pieces.erase(piece);
  paces_[window.worker].answered(bytes, now);
  if (const auto it = transfers_.find(stream); it != transfers_.end()) {
    it->second.lease = std::max(it->second.lease, now + timers::kSourceLease);
    if (verdict.ok()) return;
    return end(it, cat("piece refused: ", std::string(verdict.message())), TellSink::kYes, now);
  }
  const auto over = under_way_.find(stream);
  if (over != under_way_.end() && --over->second.pieces == 0)
    drained(stream, under_way_.extract(over).mapped().error);
}

// ---- ends
// -------------------------------------------------------------------------------------------------------

// What is under way may still be read: it keeps its room in the window until it is answered, or the peer is
// gone. A peer that does not answer is given up before the other ranks of the worker are (KvGroup).
void KvSource::end(Transfers::iterator it, const std::string& error, TellSink tell, Instant now) {
  const KvStream stream = it->first;
  const bool known_there = it->second.grant.has_value();
  transfers_.erase(it);
  remember_ended(stream);
  ++(error.empty() ? scope_.counters.sent : scope_.counters.send_failed);
  if (tell == TellSink::kYes && known_there) tell_end(stream.peer, stream.transfer, error);
  size_t pieces = 0;
  if (const auto window = windows_.find(stream.peer); window != windows_.end()) {
    for (auto& [cookie, piece] : window->second.pieces) {
      if (piece.transfer != stream.transfer) continue;
      piece.last = now + kMostPatience;
      piece.deadline = std::clamp(piece.deadline, now + kLeastPatience, piece.last);
      ++pieces;
    }
  }
  if (pieces == 0) return drained(stream, error);
  under_way_[stream] = {.error = error, .pieces = pieces};
}

void KvSource::drained(const KvStream& stream, const std::string& error) {
  scope_.events(stream.peer, KvDrained{.transfer = stream.transfer, .as_source = true, .error = error});
}

void KvSource::remember_ended(const KvStream& stream) {
  if (!ended_.insert(stream).second) return;
  ended_order_.push_back(stream);
  if (ended_order_.size() <= kMaxEnded) return;
  ended_.erase(ended_order_.front());
  ended_order_.pop_front();
}

void KvSource::tell_end(const WorkerRef& to, TransferId transfer, const std::string& reason) {
  const KvEndMessage message{
      .transfer = transfer, .from = KvSide::kSource, .reason = reason.substr(0, kMaxEndReason)};
  scope_.plane.send(to, as_bytes(encode(KvMessage(message)))).IgnoreError();
}

void KvSource::on_end(const WorkerRef& from, const KvEndMessage& message, Instant now) {
  const KvStream stream{message.transfer, from};
  if (early_.erase(stream) > 0) remember_ended(stream);
  const auto it = transfers_.find(stream);
  if (it == transfers_.end()) return;
  if (!message.ok) return end(it, cat("by the receiver: ", message.reason), TellSink::kNo, now);
  // A receiver that has everything before everything was offered is lying or confused.
  if (!it->second.finished || !it->second.grant)
    return end(it, "confirmed before it was sent", TellSink::kYes, now);
  end(it, "", TellSink::kNo, now);
}

// Who waits for its turn waits for pieces that have deadlines. When all was offered, only answers count.
void KvSource::on_renew(const WorkerRef& from, const KvRenewMessage& renew, Instant now) {
  for (const TransferId id : renew.transfers) {
    const auto it = transfers_.find({id, from});
    if (it != transfers_.end()) {
      Transfer& t = it->second;
      if (t.grant && (!t.finished || t.queued)) t.lease = now + timers::kSourceLease;
    } else if (!early_.contains({id, from})) {
      ++scope_.counters.unknown_transfers;
      tell_end(from, id, "unknown transfer");
    }
  }
}

void KvSource::on_peer_down(const WorkerRef& peer, const std::string& reason, Instant now) {
  if (const auto window = windows_.extract(peer); !window.empty())
    for (size_t i = window.mapped().pieces.size(); i > 0; --i) paces_[window.mapped().worker].dropped();
  std::erase_if(early_, [&](const auto& entry) { return entry.first.peer == peer; });
  for (auto it = transfers_.begin(); it != transfers_.end();) {
    const auto next = std::next(it);
    if (it->first.peer == peer) end(it, cat("destination lost: ", reason), TellSink::kNo, now);
    it = next;
  }
  std::erase_if(under_way_, [&](const auto& over) {
    if (over.first.peer != peer) return false;
    drained(over.first, over.second.error);
    return true;
  });
}

// ---- time
// -------------------------------------------------------------------------------------------------------

int KvSource::on_tick(Instant now) {
  std::set<KvStream> late;
  std::set<WorkerRef> silent, given_up;
  for (auto& [peer, window] : windows_) {
    for (auto& [cookie, piece] : window.pieces) {
      if (now < piece.deadline) continue;
      // A link that has become slow still answers.
      const Instant patient = window.answered + kLeastPatience;
      const KvStream stream{piece.transfer, peer};
      if (!under_way_.contains(stream)) {
        late.insert(stream);
        if (now >= patient) silent.insert(peer);
      } else if (const Instant due = std::min(patient, piece.last); now < due) {
        piece.deadline = due;
      } else {
        given_up.insert(peer);
      }
    }
  }
  for (const auto& [stream, t] : transfers_)
    if (now >= t.lease || now >= t.deadline) late.insert(stream);
  for (const KvStream& stream : late) {
    ++scope_.counters.deadlines;
    end(transfers_.find(stream), "deadline: the receiver did not take it in time", TellSink::kYes, now);
  }
  for (const WorkerRef& peer : silent) scope_.plane.doubt(peer);
  for (const WorkerRef& peer : given_up)
    scope_.plane.disconnect(peer, "what was offered to it was neither taken nor refused in time");
  end_early_grants(now);
  if (now >= renew_at_) renew(now);
  return static_cast<int>(late.size() + given_up.size());
}

void KvSource::end_early_grants(Instant now) {
  std::erase_if(early_, [&](const auto& entry) {
    if (now < entry.second.deadline) return false;
    tell_end(entry.first.peer, entry.first.transfer, "never submitted here");
    return true;
  });
}

void KvSource::renew(Instant now) {
  std::map<WorkerRef, KvRenewMessage> messages;
  const auto add = [&messages](const KvStream& stream) {
    KvRenewMessage& message = messages[stream.peer];
    if (message.transfers.size() < kMaxRenewals) message.transfers.push_back(stream.transfer);
  };
  for (const auto& [stream, t] : transfers_)
    if (t.grant) add(stream);
  for (const auto& [stream, early] : early_) add(stream);
  for (const auto& [peer, message] : messages)
    scope_.plane.send(peer, as_bytes(encode(KvMessage(message)))).IgnoreError();
  renew_at_ = messages.empty() ? kNever : now + timers::kSourceLeaseRenew;
}

Instant KvSource::next_deadline() const {
  Instant next = renew_at_;
  for (const auto& [peer, window] : windows_)
    for (const auto& [cookie, piece] : window.pieces) next = std::min(next, piece.deadline);
  for (const auto& [id, t] : transfers_) next = std::min({next, t.lease, t.deadline});
  for (const auto& [id, early] : early_) next = std::min(next, early.deadline);
  return next;
}

}  // namespace baton::worker
