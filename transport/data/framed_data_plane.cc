#include "transport/data/framed_data_plane.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"
#include "transport/data/host_id.h"
#include "transport/data/session.h"

namespace baton::transport {
namespace {

constexpr auto kHandshakeDeadline = timers::kTransferCap;
constexpr auto kRetryAfter = timers::kHeartbeat;  // doubled each time
constexpr int kRetries = 3;
constexpr size_t kMaxSessions = 4096;
constexpr size_t kMaxNameless = 64;  // of them: connections whose other end has not said who it is

std::string name_of(const WorkerRef& ref) { return cat(ref.name, "/", ref.incarnation.value()); }

HandshakeTerms make_terms(const DataPlaneOptions& options, const SharedPool& pool, const Links& links,
                          const PullLanes& pulls) {
  std::vector<PullLane*> lanes;
  for (const auto& lane : pulls.lanes) lanes.push_back(lane.get());
  return {.identity = options.identity,
          .lanes = options.lanes,
          .checksum = options.checksum,
          .pool = pool.ticket(),
          .probe = pool.probe(),
          .probe_checksum = checksum_of(pool.probe()),
          .probe_frame_bytes = std::min(links.segment_bytes(), pool.probe().size() / 4) / 64 * 64,
          .stream_lane = std::string(links.stream_lane()),
          .pulls = std::move(lanes),
          .missing = pulls.missing};
}

}  // namespace

FramedDataPlane::FramedDataPlane(const DataPlaneOptions& options, std::unique_ptr<SharedPool> pool,
                                 std::unique_ptr<Links> links, const Clock* clock, PullLanes pulls)
    : options_(options),
      pool_(std::move(pool)),
      links_(std::move(links)),
      pulls_(std::move(pulls)),
      terms_(make_terms(options_, *pool_, *links_, pulls_)),
      clock_(clock ? *clock : steady_clock_),
      counters_(std::make_unique<Counters>()) {
  links_->set_listener(*this);
  for (const auto& lane : pulls_.lanes)
    if (lane->descriptor() >= 0) links_->wait_for(lane->descriptor());
}

FramedDataPlane::~FramedDataPlane() = default;

// ---- peers
// ----------------------------------------------------------------------------------------------------

bool FramedDataPlane::stale(const WorkerRef& peer) const {
  const auto fenced = fenced_.find(peer.name);
  if (fenced != fenced_.end() && peer.incarnation <= fenced->second) return true;
  const auto newest = newest_.find(peer.name);
  return newest != newest_.end() && peer.incarnation < newest->second;
}

bool FramedDataPlane::named(const WorkerRef& peer) const {
  if (options_.callers == Callers::kAnybody) return true;
  const auto known = named_.find(peer.name);
  return known != named_.end() && known->second == peer.incarnation;
}

void FramedDataPlane::let_in(const WorkerRef& peer) {
  Incarnation& life = named_[peer.name];
  life = std::max(life, peer.incarnation);
  std::vector<Session*> waiting;
  for (auto& [link, session] : sessions_)
    if (session->unnamed && session->unnamed->identity.self == peer) waiting.push_back(session.get());
  for (Session* session : waiting) {
    const HelloFrame hello = *std::exchange(session->unnamed, std::nullopt);
    session->deadline = now_ + kHandshakeDeadline;  // its waiting does not count
    on_hello(*session, hello);
    settle(*session);
  }
}

absl::Status FramedDataPlane::connect(const WorkerDescription& peer, Instant now) {
  now_ = now;
  BATON_CHECK(listener_);
  const WorkerRef& ref = peer.ref;
  if (ref.name == options_.identity.self.name)
    return absl::InvalidArgumentError(cat("peer ", ref.name, " is this worker"));
  if (stale(ref)) {
    ++counters_->stale_incarnations;
    return absl::FailedPreconditionError(cat("peer ", name_of(ref), ": that life is over"));
  }
  let_in(ref);
  if (const Session* session = find(ref)) {
    listener_->on_peer(connected_event(*session));
    return absl::OkStatus();
  }
  if (wanted_.contains(ref)) return absl::OkStatus();
  wanted_[ref] = {.address = peer.data_address, .deadline = now_ + kHandshakeDeadline};
  if (find_any(ref)) return absl::OkStatus();  // it is connecting to us already
  const absl::Status started = start_session(ref, peer.data_address);
  if (!started.ok()) wanted_.erase(ref);
  return started;
}

absl::Status FramedDataPlane::start_session(const WorkerRef& peer, const std::string& address) {
  ASSIGN_OR_RETURN(const LinkId link, links_->connect(address));
  Session& session = open_session(link, true);
  session.peer = peer;
  session.handshake->start(peer);
  return absl::OkStatus();
}

void FramedDataPlane::fence(const WorkerRef& peer) {
  Incarnation& fenced = fenced_[peer.name];
  fenced = std::max(fenced, peer.incarnation);
  std::vector<Session*> over;
  for (auto& [link, session] : sessions_)
    if (session->peer.name == peer.name && session->peer.incarnation <= fenced) over.push_back(session.get());
  for (Session* session : over) end_session(*session, "fenced");
}

void FramedDataPlane::disconnect(const WorkerRef& peer, const std::string& reason) {
  if (Session* session = find(peer)) end_session(*session, reason);
}

void FramedDataPlane::doubt(const WorkerRef& peer) {
  if (Session* session = find(peer)) ask_for_life(*session);
}

bool FramedDataPlane::hung_up(const WorkerRef& peer) const {
  const Session* session = find(peer);
  return !session || links_->peer_closed(session->link);
}

FramedDataPlane::Session* FramedDataPlane::find(const WorkerRef& peer) const {
  const auto it = ready_.find(peer);
  return it == ready_.end() ? nullptr : it->second;
}

FramedDataPlane::Session* FramedDataPlane::find_any(const WorkerRef& peer) const {
  for (const auto& [link, session] : sessions_)
    if (session->peer == peer && !session->refused) return session.get();
  return nullptr;
}

std::string FramedDataPlane::lane_name(const Session& session) const {
  if (session.lane() == Lane::kStream) return terms_.stream_lane;
  return lane_names(static_cast<uint8_t>(session.lane()), "");
}

std::string FramedDataPlane::lane(const WorkerRef& peer) const {
  const Session* session = find(peer);
  return session ? lane_name(*session) : "";
}

double FramedDataPlane::bytes_per_second(const WorkerRef& peer) const {
  const Session* session = find(peer);
  return session ? session->rate.bytes_per_second : 0;
}

size_t FramedDataPlane::max_piece_bytes(const WorkerRef& peer) const {
  const Session* session = find(peer);
  if (!session || session->lane() == Lane::kStream) return links_->segment_bytes();
  return session->lane() == Lane::kLocal ? kLocalPieceBytes : kPullPieceBytes;
}

bool FramedDataPlane::lands_by_itself(const WorkerRef& peer) const {
  const Session* session = find(peer);
  return session && session->pulls_lane();
}

PeerEvent FramedDataPlane::connected_event(const Session& session) const {
  return {.kind = PeerEvent::Kind::kConnected,
          .peer = session.peer,
          .lane = lane(session.peer),
          .bytes_per_second = session.rate.bytes_per_second,
          .latency = session.handshake->latency(),
          .detail = session.handshake->detail()};
}

// ---- sending
// --------------------------------------------------------------------------------------------------

void FramedDataPlane::transmit(Session& session, FrameBody body, std::string text,
                               std::vector<std::span<const std::byte>> payload) {
  if (session.ended) return;
  Frame frame{.number = session.frames_sent++, .body = std::move(body)};
  links_->send(session.link,
               {.head = encode_frame(frame), .body = std::move(text), .payload = std::move(payload)});
}

absl::Status FramedDataPlane::send(const WorkerRef& peer, std::span<const std::byte> message) {
  Session* session = find(peer);
  if (!session) return absl::UnavailableError(cat("peer ", name_of(peer), " is not connected"));
  if (message.size() > kMaxMessage) return absl::InvalidArgumentError("message too long");
  transmit(*session, MessageFrame{},
           std::string(reinterpret_cast<const char*>(message.data()), message.size()), {});
  return absl::OkStatus();
}

absl::Status FramedDataPlane::offer(const WorkerRef& peer, const PieceOffer& piece) {
  Session* session = find(peer);
  if (!session) return absl::UnavailableError(cat("peer ", name_of(peer), " is not connected"));
  BATON_CHECK(piece.runs.size() <= kMaxRuns && piece.header.size() <= kMaxPieceHeader);
  OfferFrame frame{.cookie = piece.cookie, .lane = session->lane(), .has_checksum = options_.checksum};
  PieceChecksum sum;
  std::vector<std::span<const std::byte>> payload;
  for (const PoolRun& run : piece.runs) {
    BATON_CHECK(run_fits(run, pool_->bytes().size()), "offered run outside the pool or not aligned");
    payload.push_back(pool_->bytes().subspan(run.offset, run.bytes));
    frame.bytes += run.bytes;
  }
  for (size_t i = 0; options_.checksum && i < payload.size(); ++i)
    sum.add(payload[i], i + 1 < payload.size() ? payload[i + 1].data() : nullptr);
  frame.checksum = options_.checksum ? sum.value() : 0;
  frame.header.assign(reinterpret_cast<const char*>(piece.header.data()), piece.header.size());
  if (frame.lane != Lane::kStream) {
    frame.runs.assign(piece.runs.begin(), piece.runs.end());
    payload.clear();
  }
  session->rate.offered(piece.cookie, frame.bytes, clock_.now());
  transmit(*session, std::move(frame), "", std::move(payload));
  return absl::OkStatus();
}

void FramedDataPlane::answer(Session& session, uint64_t cookie, const absl::Status& verdict) {
  transmit(session,
           AnswerFrame{.cookie = cookie,
                       .code = static_cast<uint8_t>(verdict.code()),
                       .reason = std::string(verdict.message().substr(0, kMaxReason))},
           "", {});
}

// ---- life of a session
// ----------------------------------------------------------------------------------------

FramedDataPlane::Session& FramedDataPlane::open_session(LinkId link, bool outgoing) {
  auto session = std::make_unique<Session>();
  Session* raw = session.get();
  raw->link = link;
  raw->outgoing = outgoing;
  raw->deadline = now_ + kHandshakeDeadline;
  raw->handshake = std::make_unique<Handshake>(
      terms_, clock_,
      [this, raw](FrameBody body, std::span<const std::byte> payload) {
        std::vector<std::span<const std::byte>> parts;
        if (!payload.empty()) parts.push_back(payload);
        transmit(*raw, std::move(body), "", std::move(parts));
      },
      [this, raw](PeerMemory& memory) { test_pull(*raw, memory); });
  sessions_[link] = std::move(session);
  return *raw;
}

void FramedDataPlane::on_accepted(LinkId link) {
  if (sessions_.size() >= kMaxSessions) return links_->close(link);
  Session *oldest = nullptr, *silent = nullptr;  // links are counted
  size_t nameless = 0;
  for (auto& [id, session] : sessions_) {
    if (!session->nameless()) continue;
    if (nameless++ == 0) oldest = session.get();
    if (silent == nullptr && !session->unnamed) silent = session.get();
  }
  if (nameless >= kMaxNameless)
    end_session(silent != nullptr ? *silent : *oldest, "too many connections that do not say who they are");
  open_session(link, false);
}

void FramedDataPlane::on_closed(LinkId link, const std::string& reason) {
  const auto it = sessions_.find(link);
  if (it != sessions_.end()) end_session(*it->second, reason);
}

void FramedDataPlane::end_session(Session& session, const std::string& reason) {
  if (session.ended) return;
  session.ended = true;
  links_->close(session.link);
  session.handshake->close_memories();
  const auto it = sessions_.find(session.link);
  ended_.push_back(std::move(it->second));
  sessions_.erase(it);
  const auto ready = ready_.find(session.peer);
  if (ready != ready_.end() && ready->second == &session) {
    ready_.erase(ready);
    ++counters_->peers_lost;
    listener_->on_peer({.kind = PeerEvent::Kind::kDown, .peer = session.peer, .detail = reason});
  } else if (!session.refused) {
    resolve_wanted(session.peer, reason, true);
  }
}

// A connection that was wanted ended before it was ready. A broken link is tried again a few times: UCX
// resets connections that are made while an old one to the same place is still closing.
void FramedDataPlane::resolve_wanted(const WorkerRef& peer, const std::string& reason, bool may_retry) {
  const auto it = wanted_.find(peer);
  if (it == wanted_.end() || find_any(peer)) return;
  Wanted& wanted = it->second;
  if (may_retry && !stale(peer) && wanted.retries < kRetries && now_ < wanted.deadline) {
    wanted.retry_at = now_ + kRetryAfter * (1 << wanted.retries++);
    return;
  }
  wanted_.erase(it);
  listener_->on_peer({.kind = PeerEvent::Kind::kRefused, .peer = peer, .detail = reason});
}

void FramedDataPlane::refuse_unnamed(Session& session) {
  const WorkerRef caller = std::exchange(session.unnamed, std::nullopt)->identity.self;
  session.handshake->refuse(RefuseFrame::Code::kMismatch,
                            cat("the coordinator has not named ", name_of(caller), " as a peer of ",
                                name_of(options_.identity.self)));
  settle(session);
}

// After each frame of a handshake: did it end?
void FramedDataPlane::settle(Session& session) {
  if (session.ended || session.refused) return;
  if (session.handshake->state() == Handshake::State::kReady) return become_ready(session);
  if (session.handshake->state() != Handshake::State::kFailed) return;
  const bool by_peer = session.handshake->refused_by_peer();
  const bool duplicate = session.handshake->failure_code() == RefuseFrame::Code::kDuplicate;
  if (!duplicate) ++counters_->handshakes_refused;
  session.refused = true;
  session.deadline = now_ + timers::kQuarantineBeforeTeardown;  // our refusal is still on its way
  resolve_wanted(session.peer, session.handshake->failure(), duplicate);
  if (by_peer) end_session(session, session.handshake->failure());
}

void FramedDataPlane::become_ready(Session& session) {
  session.deadline = kNever;
  if (same_machine(options_.identity.host_id, session.handshake->remote().identity.host_id))
    links_->within_machine(session.link);
  session.rate.bytes_per_second = session.handshake->bytes_per_second();
  session.rate.guessed = session.pulls_lane();  // tested was what I fetch, not what the peer does
  session.watch.start(session.rate.bytes_per_second);
  std::vector<Session*> replaced;
  for (auto& [ref, old] : ready_)
    if (ref.name == session.peer.name) replaced.push_back(old);
  for (Session* old : replaced) end_session(*old, "replaced by a newer connection");
  newest_[session.peer.name] = session.peer.incarnation;
  ready_[session.peer] = &session;
  wanted_.erase(session.peer);
  listener_->on_peer(connected_event(session));
}

int FramedDataPlane::do_work(Instant now) {
  BATON_CHECK(listener_);
  now_ = now;
  int done = links_->poll();
  done += poll_pulls();
  done += run_copies();
  check_lanes();
  run_deadlines();
  ended_.clear();
  return done;
}

void FramedDataPlane::run_deadlines() {
  std::vector<std::pair<Session*, const char*>> late;
  for (auto& [link, session] : sessions_) {
    if (now_ >= session->deadline && session->unnamed)
      refuse_unnamed(*session);
    else if (now_ >= session->deadline)
      late.emplace_back(session.get(), "handshake deadline");
    else if (now_ >= session->pong_deadline)
      late.emplace_back(session.get(), "no answer");
    else if (now_ >= session->pull_deadline())
      late.emplace_back(session.get(), "a read of the peer's memory did not end in time");
  }
  for (auto [session, reason] : late) end_session(*session, reason);
  std::vector<std::pair<WorkerRef, std::string>> again;
  std::vector<WorkerRef> expired;
  for (auto& [peer, wanted] : wanted_) {
    if (now_ >= wanted.deadline)
      expired.push_back(peer);
    else if (now_ >= wanted.retry_at)
      again.emplace_back(peer, wanted.address);
  }
  for (const WorkerRef& peer : expired) resolve_wanted(peer, "handshake deadline", false);
  for (const auto& [peer, address] : again) {
    wanted_[peer].retry_at = kNever;
    if (find_any(peer)) continue;
    if (const absl::Status started = start_session(peer, address); !started.ok())
      resolve_wanted(peer, std::string(started.message()), false);
  }
}

Instant FramedDataPlane::next_deadline() const {
  Instant next = kNever;
  for (const auto& [link, session] : sessions_) {
    next = std::min({next, session->deadline, session->pong_deadline, session->test_deadline,
                     session->pull_deadline(), lane_check_due(*session)});
    if (session->may_fetch()) next = Instant{};
  }
  for (const auto& [peer, wanted] : wanted_)  // whose connection is being made waits for that one's deadline
    if (!find_any(peer)) next = std::min({next, wanted.deadline, wanted.retry_at});
  return next;
}

DataPlaneCounters FramedDataPlane::counters() const {
  return {.bytes_landed = counters_->bytes_landed,
          .pieces_landed = counters_->pieces_landed,
          .pieces_refused = counters_->pieces_refused,
          .checksum_mismatches = counters_->checksum_mismatches,
          .malformed_frames = counters_->malformed_frames,
          .handshakes_refused = counters_->handshakes_refused,
          .stale_incarnations = counters_->stale_incarnations,
          .unknown_answers = counters_->unknown_answers,
          .peers_lost = counters_->peers_lost,
          .lanes_tested_again = counters_->lanes_tested_again,
          .lanes_failed = counters_->lanes_failed};
}

}  // namespace baton::transport
