// FramedDataPlane, receiving half: frames of a session, and the landing of bytes.
#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"
#include "transport/data/session.h"

namespace baton::transport {
namespace {

// Bytes per do_work(): messages and heartbeats come through, and a sender with 8 MiB under way has the
// answers to a quarter of them while the next ones are copied (with half of them both sides waited in turn: 7
// % less).
constexpr size_t kCopyBudget = 2 << 20;

// A caller waits so long to be named: half of its own deadline, so that it hears why it is refused.
constexpr auto kNameDeadline = timers::kTransferCap / 2;

absl::Status from_wire(const AnswerFrame& answer) {
  if (answer.code == 0) return absl::OkStatus();
  const bool known = answer.code <= static_cast<uint8_t>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(answer.code) : absl::StatusCode::kUnknown,
                      answer.reason);
}

}  // namespace

// ---- frames
// ---------------------------------------------------------------------------------------------------

void FramedDataPlane::on_frame(LinkId link, std::span<const std::byte> head,
                               std::span<const std::byte> payload) {
  const auto it = sessions_.find(link);
  if (it == sessions_.end()) return;
  Session& session = *it->second;
  if (session.refused) return;
  auto frame = decode_frame(head);
  if (!frame.ok()) return violation(session, std::string(frame.status().message()));
  if (frame->number != session.frames_received)
    return violation(session, "frame: lost, doubled or out of order");
  ++session.frames_received;
  if (!session.ready()) return in_handshake(session, frame->body, payload);
  // Any frame is a sign of life: on a slow link the answer to a ping waits for what was sent before.
  if (session.pong_deadline != kNever) session.pong_deadline = now_ + timers::kQuarantineBeforeTeardown;
  in_service(session, frame->body, payload);
}

void FramedDataPlane::violation(Session& session, const std::string& what) {
  ++counters_->malformed_frames;
  end_session(session, what);
}

void FramedDataPlane::in_handshake(Session& session, const FrameBody& frame,
                                   std::span<const std::byte> payload) {
  const auto* hello = std::get_if<HelloFrame>(&frame);
  if (hello && !session.outgoing && session.handshake->state() == Handshake::State::kHello &&
      session.nameless() && !session.unnamed) {
    on_hello(session, *hello);
  } else if (!session.handshake->on_frame(frame, payload)) {
    return violation(session, "frame: out of place in a handshake");
  }
  settle(session);
}

// Somebody connected and says who it is.
void FramedDataPlane::on_hello(Session& session, const HelloFrame& hello) {
  const WorkerRef& peer = hello.identity.self;
  if (peer.name.empty() || peer.name == options_.identity.self.name)
    return session.handshake->refuse(RefuseFrame::Code::kMismatch, "a worker name is missing or used twice");
  if (stale(peer)) {
    ++counters_->stale_incarnations;
    return session.handshake->refuse(RefuseFrame::Code::kStale, cat(peer.name, "/", peer.incarnation.value(),
                                                                    ": that life is fenced or was replaced"));
  }
  // Whoever it is: no use in waiting for a name.
  if (hello.identity.protocol_version == options_.identity.protocol_version &&
      hello.expected == options_.identity.self && !named(peer)) {
    session.unnamed = hello;
    session.deadline = std::min(session.deadline, now_ + kNameDeadline);
    return;
  }
  Session* other = find_any(peer);
  if (other && other->ready()) {
    // Perhaps our half of an old connection is dead and we do not know it yet: make sure, the peer tries
    // again.
    ask_for_life(*other);
    return session.handshake->refuse(RefuseFrame::Code::kDuplicate, "connected already");
  }
  if (other && other->outgoing && options_.identity.self.name < peer.name)
    return session.handshake->refuse(RefuseFrame::Code::kDuplicate, "being connected from the other side");
  session.peer = peer;
  session.handshake->accept(hello);
}

void FramedDataPlane::ask_for_life(Session& session) {
  if (session.pong_deadline != kNever) return;
  session.pong_deadline = now_ + timers::kQuarantineBeforeTeardown;
  transmit(session, PingFrame{}, "", {});
}

void FramedDataPlane::in_service(Session& session, FrameBody& frame, std::span<const std::byte> payload) {
  if (auto* offer = std::get_if<OfferFrame>(&frame)) return on_offer(session, *offer, payload);
  if (const auto* answer = std::get_if<AnswerFrame>(&frame)) return on_answer(session, *answer);
  if (std::holds_alternative<MessageFrame>(frame)) {
    if (payload.size() > kMaxMessage) return violation(session, "message too long");
    return listener_->on_message(session.peer, payload);
  }
  if (std::holds_alternative<PongFrame>(frame)) {
    session.pong_deadline = kNever;
    return;
  }
  if (std::holds_alternative<CheckLaneFrame>(frame)) return on_check_lane(session);
  if (const auto* checked = std::get_if<LaneCheckedFrame>(&frame)) return on_lane_checked(session, *checked);
  if (const auto* probe = std::get_if<ProbeFrame>(&frame)) return on_test_frame(session, *probe, payload);
  if (const auto* refusal = std::get_if<RefuseFrame>(&frame)) return end_session(session, refusal->reason);
  // Pings and test transfers of the peer may come after we are ready.
  if (!session.handshake->on_frame(frame, payload)) violation(session, "frame: out of place");
}

void FramedDataPlane::on_answer(Session& session, const AnswerFrame& answer) {
  const auto known =
      session.rate.answered(answer.cookie, clock_.now(), session.lane() == Lane::kStream || answer.code == 0);
  if (known == OfferRate::Answer::kUnknown) {
    ++counters_->unknown_answers;
    return;
  }
  if (known == OfferRate::Answer::kSample) session.watch.sample(session.rate.last_sample);
  listener_->on_answer(session.peer, answer.cookie, from_wire(answer));
}

// ---- landing
// --------------------------------------------------------------------------------------------------

void FramedDataPlane::on_offer(Session& session, OfferFrame& offer, std::span<const std::byte> payload) {
  if (offer.lane != session.lane()) return violation(session, "offer: another lane than was agreed");
  if (offer.lane != Lane::kStream) {
    if (session.copies.size() >= kMaxPendingCopies) return violation(session, "offers: too many at once");
    session.copies.push_back(std::move(offer));
    return;
  }
  if (session.landing) return finish_landing(session);
  if (payload.size() != offer.bytes || offer.bytes == 0 || offer.bytes % kPoolAlignment != 0) {
    ++counters_->pieces_refused;
    return answer(session, offer.cookie, absl::InvalidArgumentError("offer: length differs from the bytes"));
  }
  land(session, offer, std::span(&payload, 1));
}

// All lanes but the stream: fetches what was offered, peer by peer, a bounded amount at a time.
int FramedDataPlane::run_copies() {
  std::vector<LinkId> busy;
  for (auto& [link, session] : sessions_)
    if (session->may_fetch()) busy.push_back(link);
  size_t budget = kCopyBudget;
  int done = 0;
  for (const LinkId link : busy) {
    size_t mine = budget / busy.size();
    while (true) {
      const auto it = sessions_.find(link);  // a listener may end any session
      if (it == sessions_.end() || !it->second->may_fetch()) break;
      Session& session = *it->second;
      OfferFrame offer = std::move(session.copies.front());
      session.copies.pop_front();
      ++done;
      const uint64_t bytes = offer.bytes;
      fetch(session, std::move(offer));
      if (bytes >= mine) break;
      mine -= bytes;
    }
  }
  return done;
}

void FramedDataPlane::fetch(Session& session, OfferFrame offer) {
  if (const absl::Status fits = check_runs(offer, session.handshake->remote().pool.pool_bytes); !fits.ok()) {
    ++counters_->pieces_refused;
    return answer(session, offer.cookie, fits);
  }
  if (session.lane() != Lane::kLocal) return pull(session, std::move(offer));
  const auto pool = session.handshake->peer_pool()->bytes();
  std::vector<std::span<const std::byte>> source;
  for (const PoolRun& run : offer.runs) source.push_back(pool.subspan(run.offset, run.bytes));
  land(session, offer, source);
}

absl::Status FramedDataPlane::check_runs(const OfferFrame& offer, uint64_t pool_bytes) const {
  uint64_t total = 0;
  for (const PoolRun& run : offer.runs) {
    if (!run_fits(run, pool_bytes)) return absl::InvalidArgumentError("offer: run outside the sender's pool");
    total += run.bytes;  // at most kMaxRuns pools of 2^46 bytes
  }
  if (total != offer.bytes || total == 0 || total > kMaxPieceBytes)
    return absl::InvalidArgumentError("offer: length differs from the runs");
  return absl::OkStatus();
}

// Where the bytes of an offer may go; a refusal is counted.
absl::StatusOr<std::vector<PoolRun>> FramedDataPlane::place(Session& session, const OfferFrame& offer) {
  absl::StatusOr<std::vector<PoolRun>> places =
      options_.checksum && !offer.has_checksum
          ? absl::InvalidArgumentError("offer: no checksum")
          : listener_->on_offer(session.peer, as_bytes(offer.header), offer.bytes);
  if (!places.ok()) ++counters_->pieces_refused;
  return places;
}

void FramedDataPlane::conclude(Session& session, const OfferFrame& offer, const absl::Status& moved) {
  if (absl::IsDataLoss(moved)) ++counters_->checksum_mismatches;
  const absl::Status verdict = listener_->on_landed(session.peer, as_bytes(offer.header), moved);
  if (verdict.ok()) {
    ++counters_->pieces_landed;
    counters_->bytes_landed += offer.bytes;
  }
  answer(session, offer.cookie, verdict);
}

void FramedDataPlane::land(Session& session, const OfferFrame& offer,
                           std::span<const std::span<const std::byte>> source) {
  const auto places = place(session, offer);
  if (!places.ok()) return answer(session, offer.cookie, places.status());
  conclude(session, offer, move(offer, source, *places));
}

// The payload of an offer is about to be read from a stream: it goes straight into the pool. Anything that is
// not a proper offer is collected, and judged as a frame when it is whole.
Landing* FramedDataPlane::on_payload(LinkId link, std::span<const std::byte> head, uint64_t bytes) {
  const auto it = sessions_.find(link);
  if (it == sessions_.end() || it->second->refused) return nullptr;
  Session& session = *it->second;
  if (!session.ready()) {
    // The test transfer is all that a handshake brings, and a hello comes before it.
    const bool greeted = session.handshake->state() == Handshake::State::kVerifying;
    if (!greeted || bytes > terms_.probe_frame_bytes)
      violation(session, "frame: bytes out of place in a handshake");
    return nullptr;
  }
  auto frame = decode_frame(head);
  auto* offer = frame.ok() ? std::get_if<OfferFrame>(&frame->body) : nullptr;
  if (!offer || frame->number != session.frames_received || offer->lane != Lane::kStream ||
      session.lane() != Lane::kStream || offer->bytes != bytes || bytes % kPoolAlignment != 0)
    return nullptr;
  const auto places = place(session, *offer);
  if (session.ended) return nullptr;
  std::vector<std::span<std::byte>> room;
  uint64_t total = 0;
  for (const PoolRun& run : places.ok() ? *places : std::vector<PoolRun>{}) {
    BATON_CHECK(run_fits(run, pool_->bytes().size()), "landing outside the pool or not aligned");
    room.push_back(pool_->bytes().subspan(run.offset, run.bytes));
    total += run.bytes;
  }
  BATON_CHECK(!places.ok() || total == bytes, "other room than was offered");
  const std::string header = offer->header;
  session.landing = std::make_unique<OfferLanding>(
      std::move(*offer), places.status(), std::move(room),
      [this, peer = session.peer, header] { return listener_->still_wanted(peer, as_bytes(header)); });
  return session.landing.get();
}

void FramedDataPlane::finish_landing(Session& session) {
  const std::unique_ptr<OfferLanding> landing = std::move(session.landing);
  const OfferFrame& offer = landing->offer();
  if (!landing->refusal().ok()) return answer(session, offer.cookie, landing->refusal());
  conclude(session, offer, landing->verdict());
}

// Walks both lists of runs in step: source {6 blocks, 2 blocks} into places {3 blocks, 5 blocks} are the
// copies 3, 3, 2.
absl::Status FramedDataPlane::move(const OfferFrame& offer,
                                   std::span<const std::span<const std::byte>> source,
                                   std::span<const PoolRun> places) {
  PieceChecksum sum;
  const bool around_cache = offer.bytes >= kAroundCacheBytes;
  size_t s = 0;
  size_t s_at = 0;
  uint64_t total = 0;
  for (const PoolRun& place : places) {
    BATON_CHECK(run_fits(place, pool_->bytes().size()), "landing outside the pool or not aligned");
    std::byte* to = pool_->bytes().data() + place.offset;
    total += place.bytes;
    BATON_CHECK(total <= offer.bytes, "more room than was offered");
    for (uint64_t left = place.bytes; left > 0;) {
      const uint64_t n = std::min<uint64_t>(left, source[s].size() - s_at);
      const std::byte* next = s + 1 < source.size() ? source[s + 1].data() : nullptr;
      if (s_at + n < source[s].size()) next = source[s].data() + s_at + n;
      sum.copy(to, source[s].subspan(s_at, n), around_cache, next);
      to += n;
      left -= n;
      s_at += n;
      if (s_at == source[s].size()) {
        ++s;
        s_at = 0;
      }
    }
  }
  BATON_CHECK(total == offer.bytes, "less room than was offered");
  if (around_cache) finish_stores();
  if (offer.has_checksum && sum.value() != offer.checksum)
    return absl::DataLossError("checksum: the bytes are not those that were offered");
  return absl::OkStatus();
}

}  // namespace baton::transport
