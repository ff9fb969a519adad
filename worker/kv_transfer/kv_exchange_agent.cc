#include "worker/kv_transfer/kv_exchange_agent.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {
namespace {

constexpr int kMaxOpen = 8192;
// Copies to and from host memory, their ends too: HostTier::kMostOut and one for each waiting sequence.
constexpr size_t kMostCopies = 2 * 65536;
// Each open transfer may have its start, finish and end waiting; what comes after the end is a few more.
constexpr size_t kCommandBox = 4 * kMaxOpen + 1024 + kMostCopies;
constexpr size_t kLayerBox = 64 * 1024;
constexpr auto kRateLook = std::chrono::seconds(1);  // a pair's rate is looked at so often at most ...
constexpr double kRateMoved = 1.5;                   // ... and told when it is so much higher or lower
constexpr double kMaxWordBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<KvExchangeAgent>> KvExchangeAgent::create(transport::DataPlane& plane,
                                                                         KvExchangeOptions options) {
  RETURN_IF_ERROR(check_transferable(options.geometry, plane.pool().size()));
  const kernels::KvGeometry& g = options.geometry;
  ASSIGN_OR_RETURN(const ModelPart part, part_of(options.model, options.shape, options.rank));
  const KvPart own = kv_part(part);
  if (own.layers() != g.layers || own.heads() != g.kv_heads)
    return absl::InvalidArgumentError(
        cat("KV geometry of ", g.layers, " layers, ", g.kv_heads, " heads for ", to_string(own)));
  if (options.rank == 0 && options.shape.ranks() > 1 &&
      static_cast<int>(options.addresses.size()) != options.shape.ranks())
    return absl::InvalidArgumentError(
        cat(options.addresses.size(), " addresses for ", options.shape.ranks(), " ranks"));
  return std::unique_ptr<KvExchangeAgent>(new KvExchangeAgent(plane, std::move(options), own));
}

KvExchangeAgent::KvExchangeAgent(transport::DataPlane& plane, KvExchangeOptions options, const KvPart& own)
    : plane_(plane),
      options_(std::move(options)),
      stream_events_([this](const WorkerRef& peer, KvEvent event) {
        note(KvStreamNote{.peer = peer, .event = std::move(event)});
      }),
      scope_{plane_, options_.geometry, own, stream_events_, counters_},
      sink_(scope_),
      source_(scope_),
      commands_(kCommandBox, [this] { plane_.wake(); }),
      layers_(kLayerBox, [this] { plane_.wake(); }) {
  plane_.set_listener(*this);
  for (int rank = 0; rank < options_.shape.ranks(); ++rank) {
    if (rank == options_.rank) continue;
    ranks_[rank_ref(options_.worker, rank)] = rank;
    if (leads()) joins_[rank] = Instant{};
    if (rank == 0) plane_.let_in(rank_ref(options_.worker, rank));
  }
  if (leads())
    group_ = std::make_unique<KvGroup>(KvGroupOptions{.model = options_.model,
                                                      .shape = options_.shape,
                                                      .heads_apart = heads_apart(),
                                                      .layout = options_.layout,
                                                      .addresses = options_.addresses,
                                                      .host_id = options_.host_id},
                                       group_ports());
}

bool KvExchangeAgent::heads_apart() const {
  return worker::heads_apart(options_.layout) &&
         head_bytes(options_.geometry) % transport::kPoolAlignment == 0;
}

// ---- engine thread
// ----------------------------------------------------------------------------------------------

absl::Status KvExchangeAgent::check_peer(const WorkerRef& peer) {
  std::lock_guard lock(peers_mutex_);
  if (connected_.contains(peer)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      cat("peer ", peer.name, "/", peer.incarnation.value(), " is not connected"));
}

absl::Status KvExchangeAgent::check_blocks(std::span<const BlockId> blocks) const {
  const size_t most = options_.shape.ranks() == 1 ? kMaxGrantBlocks : kMaxOrderBlocks;
  if (blocks.size() > most)
    return absl::InvalidArgumentError(cat(blocks.size(), " blocks; want ", most, " at most"));
  for (const BlockId block : blocks)
    if (block.value() >= options_.geometry.blocks)
      return absl::OutOfRangeError(cat("block ", to_string(block), " of ", options_.geometry.blocks));
  return absl::OkStatus();
}

absl::Status KvExchangeAgent::start(Command command) {
  if (open_.fetch_add(1) < kMaxOpen && commands_.post(std::move(command))) return absl::OkStatus();
  open_.fetch_sub(1);
  return absl::ResourceExhaustedError(cat("more than ", kMaxOpen, " open transfers"));
}

absl::Status KvExchangeAgent::check_grant(const KvGrant& grant) const {
  RETURN_IF_ERROR(check_blocks(grant.blocks));
  if (grant.blocks.size() != grant.generations.size())
    return absl::InvalidArgumentError(
        cat("grant of ", grant.blocks.size(), " blocks with ", grant.generations.size(), " generations"));
  const int64_t total = blocks_for(options_.geometry, grant.prompt_tokens);
  if (grant.prompt_tokens > 0 && grant.first_block >= 0 &&
      grant.first_block + static_cast<int64_t>(grant.blocks.size()) == total)
    return absl::OkStatus();
  return absl::InvalidArgumentError(cat("grant of blocks ", grant.first_block, "+", grant.blocks.size(),
                                        " for ", grant.prompt_tokens, " tokens"));
}

absl::Status KvExchangeAgent::check_send(const KvSend& send) const {
  RETURN_IF_ERROR(check_blocks(send.blocks));
  if (send.prompt_tokens > 0 &&
      static_cast<int64_t>(send.blocks.size()) == blocks_for(options_.geometry, send.prompt_tokens))
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      cat("send of ", send.blocks.size(), " blocks for ", send.prompt_tokens, " tokens"));
}

absl::Status KvExchangeAgent::expect(const KvGrant& grant) {
  RETURN_IF_ERROR(check_grant(grant));
  RETURN_IF_ERROR(check_peer(grant.source));
  return start(grant);
}

absl::Status KvExchangeAgent::send(const KvSend& send) {
  RETURN_IF_ERROR(check_send(send));
  RETURN_IF_ERROR(check_peer(send.destination));
  return start(send);
}

void KvExchangeAgent::layer_ready(TransferId transfer, int layer, int32_t tokens, int32_t rows) {
  // A word covers the layers before it.
  const auto same = std::ranges::find(untold_, transfer, &LayerReady::transfer);
  LayerReady& word = same == untold_.end() ? untold_.emplace_back() : *same;
  word = {.transfer = transfer, .layer = layer, .tokens = tokens};
  untold_bytes_ += static_cast<uint64_t>(rows) * options_.geometry.piece_bytes() /
                   static_cast<uint64_t>(options_.geometry.block_tokens);
  const bool last = layer + 1 == options_.geometry.layers;
  if (!last && untold_bytes_ < word_bytes_.load(std::memory_order_relaxed)) return;
  // Refused when the box is full: see the class comment.
  for (const LayerReady& ready : untold_) (void)layers_.post(ready);
  untold_.clear();
  untold_bytes_ = 0;
}

// These find room because the box is larger than what open transfers can post; were it full after all, the
// transfer's own deadline would end it.
void KvExchangeAgent::abandon(TransferId transfer) { (void)commands_.post(Abandon{transfer}); }
void KvExchangeAgent::cancel(TransferId transfer) { (void)commands_.post(Cancel{transfer}); }
void KvExchangeAgent::finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish) {
  (void)commands_.post(Finish{transfer, first_token, finish});
}

void KvExchangeAgent::copy(HostCopy copy) {
  BATON_CHECK(commands_.post(std::move(copy)) || commands_.closed(),
              "the engine has too many copies under way");
}

void KvExchangeAgent::copied(HostCopied end) {
  BATON_CHECK(commands_.post(std::move(end)) || commands_.closed(), "too many copies end at once");
}

// ---- progress thread
// --------------------------------------------------------------------------------------------

int KvExchangeAgent::do_work(Instant now) {
  now_ = now;
  if (!joins_.empty()) join_ranks(now);
  int done = drain_commands(now);
  done += plane_.do_work(now);
  done += sink_.on_tick(now);
  done += source_.on_tick(now);
  done += source_.pump(now);
  done += drain_notes(now);
  if (leads()) group_->on_tick(now);
  return done;
}

void KvExchangeAgent::wait(Instant now) {
  Instant next = std::min({plane_.next_deadline(), sink_.next_deadline(), source_.next_deadline()});
  if (leads()) next = std::min(next, group_->next_deadline());
  for (const auto& [rank, at] : joins_) next = std::min(next, at);
  if (next <= now) return;
  plane_.wait(next == kNever ? Duration::max() : next - now);
}

// Layers are taken out first and handed on last: the send() they belong to was posted before them, so it is
// among the commands taken after them.
int KvExchangeAgent::drain_commands(Instant now) {
  layers_taken_.clear();
  commands_taken_.clear();
  layers_.drain(layers_taken_);
  commands_.drain(commands_taken_);
  for (Command& command : commands_taken_) run(command, now);
  for (const LayerReady& ready : layers_taken_)
    source_.layer_ready(ready.transfer, ready.layer, ready.tokens);
  return static_cast<int>(commands_taken_.size() + layers_taken_.size());
}

void KvExchangeAgent::run(Command& command, Instant now) {
  if (auto* grant = std::get_if<KvGrant>(&command)) {
    if (options_.on_phase) options_.on_phase(KvPhase::kGrant, grant->transfer);
    return group_->expect(*grant, now);
  }
  if (auto* abandon = std::get_if<Abandon>(&command)) return group_->abandon(abandon->transfer, now);
  if (auto* send = std::get_if<KvSend>(&command)) return group_->send(*send, now);
  if (auto* finish = std::get_if<Finish>(&command))
    return group_->finish(finish->transfer, finish->first_token, finish->finish);
  if (auto* cancel = std::get_if<Cancel>(&command)) return group_->cancel(cancel->transfer, now);
  if (auto* fence = std::get_if<Fence>(&command)) return group_->fence(fence->peer);
  if (auto* copy = std::get_if<HostCopy>(&command)) return group_->copy(std::move(*copy), now);
  if (auto* end = std::get_if<HostCopied>(&command)) return note(std::move(*end));
  group_->connect(std::get<Connect>(command).peer);
}

void KvExchangeAgent::tell_engine(KvEvent event) {
  // KvFailed is followed by KvDrained: the transfer is over with that.
  if (!std::holds_alternative<KvFailed>(event)) open_.fetch_sub(1);
  options_.events(std::move(event));
}

void KvExchangeAgent::tell_peer(const PeerReport& report) {
  {
    std::lock_guard lock(peers_mutex_);
    if (report.connected) connected_.insert(report.peer);
    if (!report.connected) connected_.erase(report.peer);
  }
  if (options_.peers) options_.peers(report);
}

// ---- the plane's events
// -----------------------------------------------------------------------------------------

void KvExchangeAgent::on_peer(const transport::PeerEvent& event) {
  if (const auto own = ranks_.find(event.peer); own != ranks_.end()) return on_own_rank(own->second, event);
  const bool connected = event.kind == transport::PeerEvent::Kind::kConnected;
  if (event.kind == transport::PeerEvent::Kind::kDown) {
    sink_.on_peer_down(event.peer, event.detail, now_);
    source_.on_peer_down(event.peer, event.detail, now_);
  }
  const PeerReport report{.peer = event.peer,
                          .connected = connected,
                          .lane = event.lane,
                          .error = event.detail,
                          .bytes_per_second = event.bytes_per_second,
                          .latency = event.latency};
  if (connected) told_[event.peer] = {.report = report, .at = now_};
  if (connected) told_[event.peer].report.error.clear();  // is said once
  if (!connected) told_.erase(event.peer);
  weigh_words();
  note(report);
}

void KvExchangeAgent::weigh_words() {
  double bytes = kMaxWordBytes;
  for (const auto& [peer, told] : told_)
    bytes = std::min(bytes, told.report.bytes_per_second * to_seconds(options_.word_worth));
  word_bytes_ = static_cast<uint64_t>(bytes);
}

// Transfers measure the pair all the time; the coordinator hears of it when it makes a difference.
void KvExchangeAgent::look_at_rate(const WorkerRef& peer) {
  const auto it = told_.find(peer);
  if (it == told_.end() || now_ - it->second.at < kRateLook) return;
  it->second.at = now_;
  PeerReport& report = it->second.report;
  const double rate = plane_.bytes_per_second(peer);
  if (rate < report.bytes_per_second * kRateMoved && rate * kRateMoved > report.bytes_per_second) return;
  report.bytes_per_second = rate;
  weigh_words();
  note(report);
}

// The same of a worker of several ranks, or towards one: single streams do not say how they get on together.
void KvExchangeAgent::look_at_paces() {
  for (const auto& [worker, pace] : source_.paces()) {
    const double rate = pace.bytes_per_second();
    ToldPace& told = told_paces_[worker];
    const bool same = rate < told.bytes_per_second * kRateMoved && rate * kRateMoved > told.bytes_per_second;
    if (rate == 0 || same || (told.at != Instant{} && now_ - told.at < kRateLook)) continue;
    told = {.bytes_per_second = rate, .at = now_};
    note(KvPaceNote{worker, rate});
  }
}

void KvExchangeAgent::on_message(const WorkerRef& from, std::span<const std::byte> bytes) {
  if (is_group_message(bytes)) return on_group_message(from, bytes);
  const auto message = decode_message(bytes);
  if (!message.ok()) {
    ++counters_.malformed_messages;
    return;
  }
  if (const auto* grant = std::get_if<KvGrantMessage>(&*message)) return source_.on_grant(from, *grant, now_);
  if (const auto* finish = std::get_if<KvFinishMessage>(&*message))
    return sink_.on_finish(from, *finish, now_);
  if (const auto* end = std::get_if<KvEndMessage>(&*message))
    return end->from == KvSide::kSource ? sink_.on_end(from, *end, now_) : source_.on_end(from, *end, now_);
  const auto& renew = std::get<KvRenewMessage>(*message);
  if (renew.from == KvSide::kSource) return sink_.on_renew(from, renew, now_);
  source_.on_renew(from, renew, now_);
}

absl::StatusOr<std::vector<transport::PoolRun>> KvExchangeAgent::on_offer(const WorkerRef& from,
                                                                          std::span<const std::byte> header,
                                                                          uint64_t bytes) {
  const auto piece = decode_piece_header(header);
  if (!piece.ok()) {
    ++counters_.malformed_messages;
    return piece.status();
  }
  if (options_.on_phase) tell_phase(*piece);
  return sink_.on_offer(from, *piece, bytes, now_);
}

void KvExchangeAgent::tell_phase(const KvPieceHeader& piece) const {
  const int layers = options_.model.layers;
  if (piece.layer + 1 == layers) return options_.on_phase(KvPhase::kLastLayer, piece.transfer);
  if (piece.layer >= layers / 2) options_.on_phase(KvPhase::kTransfer, piece.transfer);
}

bool KvExchangeAgent::still_wanted(const WorkerRef& from, std::span<const std::byte> header) {
  return sink_.expects(from, piece_transfer(header));
}

absl::Status KvExchangeAgent::on_landed(const WorkerRef& from, std::span<const std::byte> header,
                                        const absl::Status& moved) {
  const auto piece = decode_piece_header(header);
  BATON_CHECK(piece.ok());
  return sink_.on_landed(from, *piece, moved, now_);
}

void KvExchangeAgent::on_answer(const WorkerRef& peer, uint64_t cookie, const absl::Status& verdict) {
  source_.on_answer(peer, cookie, verdict, now_);
  look_at_rate(peer);
  look_at_paces();
}

}  // namespace baton::worker
