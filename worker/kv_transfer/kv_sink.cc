#include "worker/kv_transfer/kv_sink.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"

namespace baton::worker {

using transport::as_bytes;

void KvSink::expect(const KvGrant& grant, const KvLink& link, Instant now) {
  auto [it, fresh] = transfers_.try_emplace({grant.transfer, link.peer});
  BATON_CHECK(fresh, "expect() twice for one stream");
  Transfer& t = it->second;
  t.grant = grant;
  t.total_blocks = blocks_for(scope_.geometry, grant.prompt_tokens);
  t.peer = link.peer;
  t.part = link.part;
  t.missing = grant.blocks.size() * static_cast<size_t>(t.part.layers());
  t.placed.assign(t.missing, false);
  t.landed = t.placed;
  t.heard = now;
  t.deadline = now + timers::kRequestTotal;
  renew_at_ = std::min(renew_at_, now + timers::kSourceLeaseRenew);
  const KvGrantMessage message{.transfer = grant.transfer,
                               .first_block = grant.first_block,
                               .prompt_tokens = grant.prompt_tokens,
                               .generations = grant.generations,
                               .part = t.part};
  const absl::Status sent = scope_.plane.send(t.peer, as_bytes(encode(KvMessage(message))));
  if (!sent.ok()) fail(it, std::string(sent.message()), false, now);
}

void KvSink::abandon(TransferId transfer, Instant) {
  // Of streams that are not there any more the last event is on its way.
  for_streams(transfers_, transfer, [this](Transfers::iterator it) {
    const KvStream stream = it->first;
    transfers_.erase(it);
    ++scope_.counters.failed;
    tell_end(stream.peer, stream.transfer, false, "abandoned by the receiver");
    drained(stream, "abandoned");
  });
}

// Nobody touches the blocks of the stream any more, or will when what lands by itself has landed.
void KvSink::drained(const KvStream& stream, const std::string& why) {
  if (landing_.contains(stream)) {
    drained_when_over_[stream] = why;
    return;
  }
  scope_.events(stream.peer, KvDrained{.transfer = stream.transfer, .error = why});
}

void KvSink::landing_over(const KvStream& stream) {
  const auto it = landing_.find(stream);
  if (it == landing_.end() || --it->second > 0) return;
  landing_.erase(it);
  const auto waiting = drained_when_over_.extract(stream);
  if (!waiting.empty()) drained(stream, waiting.mapped());
}

// ---- pieces

KvSink::Transfer* KvSink::find(TransferId transfer, const WorkerRef& from) {
  const auto it = transfers_.find({transfer, from});
  return it == transfers_.end() ? nullptr : &it->second;
}

size_t KvSink::index(const Transfer& t, int32_t layer, int32_t block) const {
  return static_cast<size_t>(layer - t.part.first_layer) * t.grant.blocks.size() +
         static_cast<size_t>(block - t.grant.first_block);
}

void KvSink::mark(const Transfer& t, const KvPieceHeader& header, std::vector<bool>& bits) const {
  const size_t first = index(t, header.layer, header.first_block);
  std::fill_n(bits.begin() + static_cast<std::ptrdiff_t>(first), header.generations.size(), true);
}

// `had`: blocks of a layer that may not come again.
absl::Status KvSink::check_piece(const Transfer& t, const KvPieceHeader& header, uint64_t bytes,
                                 const std::vector<bool>& had) const {
  const int64_t count = static_cast<int64_t>(header.generations.size());
  if (header.layer < t.part.first_layer || header.layer >= t.part.end_layer)
    return absl::OutOfRangeError(cat("piece: layer ", header.layer));
  if (count == 0 || header.first_block < t.grant.first_block || header.first_block + count > t.total_blocks)
    return absl::OutOfRangeError(cat("piece: blocks ", header.first_block, "+", count, " were not granted"));
  if (bytes != static_cast<uint64_t>(count) * scope_.block_bytes(t.part))
    return absl::InvalidArgumentError(cat("piece: ", bytes, " bytes for ", count, " blocks"));
  for (int32_t i = 0; i < count; ++i) {
    const int32_t block = header.first_block + i;
    if (header.generations[i] != t.grant.generations[block - t.grant.first_block])
      return absl::FailedPreconditionError(cat("piece: generation of block ", block, " is over"));
    if (had[index(t, header.layer, block)])
      return absl::AlreadyExistsError(
          cat("piece: block ", block, " of layer ", header.layer, " was offered already"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<transport::PoolRun>> KvSink::on_offer(const WorkerRef& from,
                                                                 const KvPieceHeader& header, uint64_t bytes,
                                                                 Instant now) {
  Transfer* t = find(header.transfer, from);
  if (!t) {
    ++scope_.counters.unknown_transfers;
    return absl::NotFoundError(
        cat("piece: transfer ", to_string(header.transfer), " is not expected from ", from.name));
  }
  if (absl::Status fits = check_piece(*t, header, bytes, t->placed); !fits.ok()) {
    ++scope_.counters.refused_pieces;
    return fits;
  }
  t->heard = now;
  if (t->first_offer == kNever) {
    t->first_offer = now;
    t->lane = scope_.plane.lane(from);
  }
  mark(*t, header, t->placed);
  if (scope_.plane.lands_by_itself(from)) ++landing_[{header.transfer, from}];
  const auto first = static_cast<size_t>(header.first_block - t->grant.first_block);
  return scope_.runs(t->part, header.layer,
                     std::span(t->grant.blocks).subspan(first, header.generations.size()));
}

// The grant, its generations and the sender's incarnation are checked again: what a piece met when it was
// offered must still be so now that its bytes lie in the pool. A sender that has hung up may have given its
// blocks away before they were read.
absl::Status KvSink::on_landed(const WorkerRef& from, const KvPieceHeader& header, const absl::Status& moved,
                               Instant now) {
  landing_over({header.transfer, from});
  const auto it = transfers_.find({header.transfer, from});
  if (it == transfers_.end() || scope_.plane.hung_up(from))
    return absl::NotFoundError("piece: its transfer ended meanwhile");
  Transfer& t = it->second;
  const uint64_t bytes = header.generations.size() * scope_.block_bytes(t.part);
  absl::Status verdict = moved.ok() ? check_piece(t, header, bytes, t.landed) : moved;
  if (!verdict.ok()) {
    ++scope_.counters.corrupt_pieces;
    fail(it, std::string(verdict.message()), true, now);
    return verdict;
  }
  mark(t, header, t.landed);
  t.missing -= header.generations.size();
  t.bytes += bytes;
  t.last_landed = now;
  t.heard = now;
  scope_.counters.bytes_received += bytes;
  complete_if_whole(it, now);
  return absl::OkStatus();
}

// ---- ends

void KvSink::on_finish(const WorkerRef& from, const KvFinishMessage& finish, Instant now) {
  const auto it = transfers_.find({finish.transfer, from});
  if (it == transfers_.end()) {
    ++scope_.counters.unknown_transfers;
    return tell_end(from, finish.transfer, false, "unknown transfer");
  }
  Transfer& t = it->second;
  t.heard = now;
  if (t.finish) return;
  t.finish = finish;
  t.finish_arrived = now;
  complete_if_whole(it, now);
}

void KvSink::complete_if_whole(Transfers::iterator it, Instant now) {
  Transfer& t = it->second;
  if (t.missing > 0 || !t.finish || landing_.contains(it->first)) return;
  KvLanded landed{.transfer = t.grant.transfer,
                  .first_token = t.finish->first_token,
                  .finish = t.finish->finish,
                  .report = report(t, now)};
  landed.report.ok = true;
  const WorkerRef source = t.peer;
  transfers_.erase(it);
  ++scope_.counters.landed;
  tell_end(source, landed.transfer, true, "");
  scope_.events(source, std::move(landed));
}

TransferReport KvSink::report(const Transfer& t, Instant now) const {
  TransferReport out{
      .transfer = t.grant.transfer, .request = t.grant.request, .bytes = t.bytes, .lane = t.lane};
  if (t.first_offer != kNever) out.duration = std::max(t.last_landed, t.first_offer) - t.first_offer;
  if (t.finish) out.exposed = std::max(now, t.finish_arrived) - t.finish_arrived;
  if (out.lane.empty()) out.lane = scope_.plane.lane(t.peer);
  return out;
}

void KvSink::fail(Transfers::iterator it, const std::string& reason, bool tell_source, Instant now) {
  const KvStream stream = it->first;
  const TransferId id = stream.transfer;
  KvFailed failed{.transfer = id, .reason = reason, .report = report(it->second, now)};
  failed.report.error = reason;
  transfers_.erase(it);
  ++scope_.counters.failed;
  if (tell_source) tell_end(stream.peer, id, false, reason);
  scope_.events(stream.peer, std::move(failed));
  drained(stream, reason);
}

void KvSink::tell_end(const WorkerRef& to, TransferId transfer, bool ok, const std::string& reason) {
  const KvEndMessage end{
      .transfer = transfer, .from = KvSide::kSink, .ok = ok, .reason = reason.substr(0, kMaxEndReason)};
  // A peer that is gone needs no word.
  scope_.plane.send(to, as_bytes(encode(KvMessage(end)))).IgnoreError();
}

void KvSink::on_end(const WorkerRef& from, const KvEndMessage& end, Instant now) {
  const auto it = transfers_.find({end.transfer, from});
  if (it == transfers_.end()) return;
  fail(it, cat("by the source: ", end.reason), false, now);
}

void KvSink::on_renew(const WorkerRef& from, const KvRenewMessage& renew, Instant now) {
  for (const TransferId id : renew.transfers) {
    if (Transfer* t = find(id, from)) {
      t->heard = now;
    } else {
      ++scope_.counters.unknown_transfers;
      tell_end(from, id, false, "unknown transfer");
    }
  }
}

void KvSink::on_peer_down(const WorkerRef& peer, const std::string& reason, Instant now) {
  for (auto it = transfers_.begin(); it != transfers_.end();) {
    const auto next = std::next(it);
    if (it->first.peer == peer) fail(it, cat("source lost: ", reason), false, now);
    it = next;
  }
}

// ---- time

int KvSink::on_tick(Instant now) {
  int ended = 0;
  std::set<WorkerRef> silent;
  for (auto it = transfers_.begin(); it != transfers_.end();) {
    const auto next = std::next(it);
    const Transfer& t = it->second;
    if (now >= t.deadline || now - t.heard >= timers::kSourceLease) {
      ++scope_.counters.deadlines;
      ++ended;
      silent.insert(t.peer);
      fail(it, "nothing was heard of the transfer for too long", true, now);
    }
    it = next;
  }
  for (const WorkerRef& peer : silent) scope_.plane.doubt(peer);
  if (now >= renew_at_) renew(now);
  return ended;
}

void KvSink::renew(Instant now) {
  std::map<WorkerRef, KvRenewMessage> messages;
  for (const auto& [stream, t] : transfers_) {
    KvRenewMessage& message = messages[stream.peer];
    message.from = KvSide::kSink;
    if (message.transfers.size() < kMaxRenewals) message.transfers.push_back(stream.transfer);
  }
  for (const auto& [source, message] : messages)
    scope_.plane.send(source, as_bytes(encode(KvMessage(message)))).IgnoreError();
  renew_at_ = transfers_.empty() ? kNever : now + timers::kSourceLeaseRenew;
}

Instant KvSink::next_deadline() const {
  Instant next = renew_at_;
  for (const auto& [id, t] : transfers_) next = std::min({next, t.deadline, t.heard + timers::kSourceLease});
  return next;
}

}  // namespace baton::worker
