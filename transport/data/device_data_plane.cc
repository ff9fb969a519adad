#include "transport/data/device_data_plane.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"

namespace baton::transport {
namespace {

constexpr Duration kWordsPatience = std::chrono::seconds(5);
constexpr size_t kMaxWaitingOffers = 4096;  // of one peer
constexpr uint64_t kTurnBytes = 32 << 20;   // copied in one turn
constexpr size_t kIpcPieceBytes = 16 << 20;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceDataPlane>> DeviceDataPlane::make(std::unique_ptr<DataPlane> inner,
                                                                       kernels::Device& device,
                                                                       DeviceLanes lanes,
                                                                       const Clock& clock) {
  ASSIGN_OR_RETURN(DeviceCopier copier, DeviceCopier::make(device, clock));
  return std::unique_ptr<DeviceDataPlane>(
      new DeviceDataPlane(std::move(inner), device, std::move(lanes), clock, std::move(copier)));
}

DeviceDataPlane::DeviceDataPlane(std::unique_ptr<DataPlane> inner, kernels::Device& device, DeviceLanes lanes,
                                 const Clock& clock, DeviceCopier copier)
    : inner_(std::move(inner)),
      device_(device),
      lanes_(std::move(lanes)),
      clock_(clock),
      copier_(std::move(copier)),
      staged_(device, copier_, inner_->pool()) {
  inner_->set_listener(*this);
}

DeviceDataPlane::~DeviceDataPlane() = default;

// ---- peers

const DeviceDataPlane::Peer* DeviceDataPlane::find(const WorkerRef& peer) const {
  const auto it = peers_.find(peer);
  return it != peers_.end() && it->second.ready ? &it->second : nullptr;
}

// Unmaps its pool: nothing is being copied between two calls.
void DeviceDataPlane::forget(const WorkerRef& peer) {
  peers_.erase(peer);
  std::erase_if(landing_, [&](const auto& entry) { return entry.first.first == peer; });
}

absl::Status DeviceDataPlane::connect(const WorkerDescription& peer, Instant now) {
  now_ = now;
  return inner_->connect(peer, now);
}

void DeviceDataPlane::fence(const WorkerRef& peer) {
  inner_->fence(peer);
  std::vector<WorkerRef> over;
  for (const auto& [ref, state] : peers_)
    if (ref.name == peer.name && ref.incarnation <= peer.incarnation && !inner_->connected(ref))
      over.push_back(ref);
  for (const WorkerRef& ref : over) forget(ref);
}

PeerEvent DeviceDataPlane::described(const WorkerRef& ref, const Peer& peer, PeerEvent event) const {
  event.lane = lane(ref);
  event.bytes_per_second = bytes_per_second(ref);
  if (!peer.ipc && !peer.detail.empty())
    event.detail = cat(event.detail, event.detail.empty() ? "" : "; ", "ipc: ", peer.detail);
  return event;
}

void DeviceDataPlane::on_peer(const PeerEvent& event) {
  const bool was_ready = find(event.peer) != nullptr;
  if (event.kind != PeerEvent::Kind::kConnected) {
    // Who never was connected here is refused here.
    PeerEvent told = event;
    if (!was_ready) told.kind = PeerEvent::Kind::kRefused;
    if (event.kind == PeerEvent::Kind::kDown) forget(event.peer);
    return owner_->on_peer(told);
  }
  Peer& peer = peers_[event.peer];
  if (was_ready) return owner_->on_peer(described(event.peer, peer, event));
  peer.deadline = now_ + kWordsPatience;
  if (peer.met) return;  // the words are on their way
  peer.met = event;
  CardWord card{.host_id = lanes_.host_id, .device_id = device_.id(), .ipc = lanes_.ipc, .pool = {}};
  if (card.ipc) {
    const absl::StatusOr<kernels::PoolHandle> handle = device_.export_pool();
    card.ipc = handle.ok();
    if (handle.ok()) card.pool = *handle;
    if (!handle.ok()) peer.detail = std::string(handle.status().message());
  }
  say(event.peer, card).IgnoreError();  // who is gone is told
  settle(event.peer, peer);
}

absl::Status DeviceDataPlane::map_pool(const CardWord& card, Peer& peer) {
  if (!lanes_.ipc) return absl::FailedPreconditionError("another lane is asked for here");
  if (!card.ipc) return absl::FailedPreconditionError("another lane is asked for there, or no handle given");
  if (lanes_.host_id.empty() || card.host_id != lanes_.host_id)
    return absl::FailedPreconditionError("the peer is on another machine");
  if (card.pool.pool_bytes % kPoolAlignment != 0) return absl::InvalidArgumentError("the pool's size is odd");
  ASSIGN_OR_RETURN(peer.pool, IpcPool::map(device_, card.pool));
  return absl::OkStatus();
}

void DeviceDataPlane::settle(const WorkerRef& ref, Peer& peer) {
  if (!peer.met || !peer.answered || !peer.word || peer.ready) return;
  peer.ready = true;
  peer.deadline = kNever;
  peer.ipc = peer.pool != nullptr && peer.word->mapped;
  if (!peer.ipc) peer.pool.reset();
  if (!peer.ipc && !peer.word->mapped)
    peer.detail = cat(peer.detail, peer.detail.empty() ? "" : "; ", "there: ", peer.word->detail);
  peer.rate.bytes_per_second = peer.met->bytes_per_second;
  owner_->on_peer(described(ref, peer, *peer.met));
}

// ---- words

absl::Status DeviceDataPlane::say(const WorkerRef& peer, const DeviceWord& word) {
  const std::string text = encode_word(word);
  return inner_->send(peer, bytes_of(text));
}

void DeviceDataPlane::on_message(const WorkerRef& from, std::span<const std::byte> message) {
  absl::StatusOr<DeviceWord> word = decode_word(message);
  if (!word.ok()) {
    ++malformed_;
    return;
  }
  std::visit([&](auto& w) { hear(from, w); }, *word);
}

void DeviceDataPlane::hear(const WorkerRef& from, const OwnerWord& word) {
  if (find(from) == nullptr)
    ++malformed_;
  else
    owner_->on_message(from, bytes_of(word.message));
}

void DeviceDataPlane::hear(const WorkerRef& from, const CardWord& card) {
  Peer& peer = peers_[from];
  if (peer.answered) {
    ++malformed_;
    return;
  }
  if (peer.deadline == kNever) peer.deadline = now_ + kWordsPatience;
  peer.answered = true;
  const absl::Status mapped = map_pool(card, peer);
  if (!mapped.ok() && peer.detail.empty()) peer.detail = std::string(mapped.message()).substr(0, kMaxReason);
  say(from, LaneWord{.mapped = mapped.ok(), .detail = peer.detail}).IgnoreError();
  settle(from, peer);
}

void DeviceDataPlane::hear(const WorkerRef& from, const LaneWord& word) {
  Peer& peer = peers_[from];
  if (peer.word) {
    ++malformed_;
    return;
  }
  if (peer.deadline == kNever) peer.deadline = now_ + kWordsPatience;
  peer.word = word;
  settle(from, peer);
}

void DeviceDataPlane::hear(const WorkerRef& from, OfferWord& word) {
  const auto it = peers_.find(from);
  if (it == peers_.end() || !it->second.ready || !it->second.ipc ||
      it->second.offers.size() >= kMaxWaitingOffers) {
    ++malformed_;
    say(from, AnswerWord{word.cookie, static_cast<uint8_t>(absl::StatusCode::kFailedPrecondition),
                         "lane ipc: not now"})
        .IgnoreError();
    return;
  }
  it->second.offers.push_back(std::move(word));
}

void DeviceDataPlane::hear(const WorkerRef& from, const AnswerWord& word) {
  const auto it = peers_.find(from);
  if (it == peers_.end() ||
      it->second.rate.answered(word.cookie, clock_.now()) == OfferRate::Answer::kUnknown) {
    ++malformed_;
    return;
  }
  owner_->on_answer(from, word.cookie, absl::Status(static_cast<absl::StatusCode>(word.code), word.reason));
}

// ---- the owner's calls

absl::Status DeviceDataPlane::send(const WorkerRef& peer, std::span<const std::byte> message) {
  if (find(peer) == nullptr) return absl::FailedPreconditionError(cat(peer.name, " is not connected"));
  return say(peer, OwnerWord{text_of(message)});
}

absl::Status DeviceDataPlane::offer(const WorkerRef& ref, const PieceOffer& piece) {
  const auto it = peers_.find(ref);
  if (it == peers_.end() || !it->second.ready)
    return absl::FailedPreconditionError(cat(ref.name, " is not connected"));
  OfferWord word{.cookie = piece.cookie,
                 .header = text_of(piece.header),
                 .runs = {piece.runs.begin(), piece.runs.end()}};
  RETURN_IF_ERROR(check_runs(word.runs, word.bytes(), device_.kv_pool().size()));
  if (!it->second.ipc) {
    RETURN_IF_ERROR(staged_.bring_out(piece.runs));
    return inner_->offer(ref, piece);
  }
  RETURN_IF_ERROR(say(ref, word));
  it->second.rate.offered(word.cookie, word.bytes(), clock_.now());
  return absl::OkStatus();
}

std::string DeviceDataPlane::lane(const WorkerRef& peer) const {
  const Peer* p = find(peer);
  if (p == nullptr) return "";
  return p->ipc ? "ipc" : cat("staged/", inner_->lane(peer));
}

double DeviceDataPlane::bytes_per_second(const WorkerRef& peer) const {
  const Peer* p = find(peer);
  if (p == nullptr) return 0;
  return p->ipc ? p->rate.bytes_per_second : inner_->bytes_per_second(peer);
}

size_t DeviceDataPlane::max_piece_bytes(const WorkerRef& peer) const {
  const Peer* p = find(peer);
  return p != nullptr && p->ipc ? kIpcPieceBytes : inner_->max_piece_bytes(peer);
}

DataPlaneCounters DeviceDataPlane::counters() const {
  DataPlaneCounters c = inner_->counters();
  c.bytes_landed += bytes_landed_;
  c.pieces_landed += pieces_landed_;
  c.pieces_refused += pieces_refused_;
  c.malformed_frames += malformed_;
  return c;
}

// ---- turns

int DeviceDataPlane::do_work(Instant now) {
  now_ = now;
  return inner_->do_work(now) + run_deadlines(now) + land_offers();
}

Instant DeviceDataPlane::next_deadline() const {
  Instant next = inner_->next_deadline();
  for (const auto& [ref, peer] : peers_) next = std::min(next, peer.offers.empty() ? peer.deadline : now_);
  return next;
}

int DeviceDataPlane::run_deadlines(Instant now) {
  std::vector<WorkerRef> late;
  for (const auto& [ref, peer] : peers_)
    if (now >= peer.deadline) late.push_back(ref);
  // Its words are said once: they still count when they come.
  for (const WorkerRef& ref : late) {
    peers_[ref].deadline = kNever;
    owner_->on_peer(
        {.kind = PeerEvent::Kind::kRefused, .peer = ref, .detail = "its GPU's lane was not told in time"});
  }
  return static_cast<int>(late.size());
}

// ---- lane ipc: receiving

absl::Status DeviceDataPlane::check_runs(std::span<const PoolRun> runs, uint64_t bytes,
                                         uint64_t pool_bytes) const {
  uint64_t sum = 0;
  for (const PoolRun& run : runs) {
    if (!run_fits(run, pool_bytes))
      return absl::OutOfRangeError(cat("run ", run.offset, "+", run.bytes, " in a pool of ", pool_bytes));
    sum += run.bytes;
  }
  if (sum == bytes && !runs.empty() && runs.size() <= kMaxRuns) return absl::OkStatus();
  return absl::InvalidArgumentError(cat(runs.size(), " runs of ", sum, " bytes for ", bytes));
}

int DeviceDataPlane::land_offers() {
  std::vector<WorkerRef> offering;
  for (const auto& [ref, peer] : peers_)
    if (!peer.offers.empty()) offering.push_back(ref);
  int landed = 0;
  for (const WorkerRef& ref : offering) landed += land(ref);
  return landed;
}

absl::Status DeviceDataPlane::begin_copy(const WorkerRef& from, const OfferWord& offer, const IpcPool& pool) {
  RETURN_IF_ERROR(check_runs(offer.runs, offer.bytes(), pool.bytes()));
  ASSIGN_OR_RETURN(const std::vector<PoolRun> places,
                   owner_->on_offer(from, bytes_of(offer.header), offer.bytes()));
  RETURN_IF_ERROR(check_runs(places, offer.bytes(), device_.kv_pool().size()));
  return copier_.enqueue(device_.kv_pool().data(), places, pool.data(), offer.runs);
}

// Some offers at once: they are enqueued one after the other, and waited for together. The owner may fence
// the peer meanwhile; its pool stays mapped until the copies are done.
int DeviceDataPlane::land(const WorkerRef& from) {
  const auto it = peers_.find(from);
  if (it == peers_.end()) return 0;
  const std::shared_ptr<IpcPool> pool = it->second.pool;
  std::vector<Landing> batch;
  for (uint64_t bytes = 0; !it->second.offers.empty() && bytes < kTurnBytes;) {
    batch.push_back({.offer = std::move(it->second.offers.front()), .moved = {}});
    it->second.offers.pop_front();
    bytes += batch.back().offer.bytes();
  }
  std::vector<bool> accepted;
  for (Landing& landing : batch) {
    landing.moved = begin_copy(from, landing.offer, *pool);
    accepted.push_back(landing.moved.ok());
  }
  const absl::Status done = copier_.finish();
  for (size_t i = 0; i < batch.size(); ++i) {
    const OfferWord& offer = batch[i].offer;
    absl::Status verdict = batch[i].moved;
    if (accepted[i]) verdict = owner_->on_landed(from, bytes_of(offer.header), done);
    pieces_refused_ += !accepted[i];
    pieces_landed_ += verdict.ok();
    bytes_landed_ += verdict.ok() ? offer.bytes() : 0;
    const std::string reason = std::string(verdict.message()).substr(0, kMaxReason);
    say(from, AnswerWord{offer.cookie, static_cast<uint8_t>(verdict.code()), reason}).IgnoreError();
  }
  return static_cast<int>(batch.size());
}

// ---- lane staged: the inner plane lands bytes in host memory

absl::StatusOr<std::vector<PoolRun>> DeviceDataPlane::on_offer(const WorkerRef& from,
                                                               std::span<const std::byte> header,
                                                               uint64_t bytes) {
  if (find(from) == nullptr) return absl::FailedPreconditionError("its GPU's lane is not known yet");
  ASSIGN_OR_RETURN(std::vector<PoolRun> places, owner_->on_offer(from, header, bytes));
  landing_[{from, text_of(header)}] = places;
  return places;
}

bool DeviceDataPlane::still_wanted(const WorkerRef& from, std::span<const std::byte> header) {
  return owner_->still_wanted(from, header);
}

absl::Status DeviceDataPlane::on_landed(const WorkerRef& from, std::span<const std::byte> header,
                                        const absl::Status& moved) {
  const auto places = landing_.extract({from, text_of(header)});
  absl::Status status = moved;
  // After a no the blocks may be somebody else's; the owner then says so itself.
  if (status.ok() && places.empty()) status = absl::UnavailableError("its peer left meanwhile");
  if (status.ok() && owner_->still_wanted(from, header)) status = staged_.bring_in(places.mapped());
  return owner_->on_landed(from, header, status);
}

void DeviceDataPlane::on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict) {
  owner_->on_answer(peer, cookie, verdict);
}

}  // namespace baton::transport
