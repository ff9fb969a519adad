#include "worker/kv_transfer/kv_group.h"

#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/check.h"
#include "base/timers.h"

namespace baton::worker {
namespace {

constexpr const char* kMemoryLane = "local";               // from memory to memory on one machine
constexpr Duration kCopyLimit = 2 * timers::kTransferCap;  // a rank ends itself sooner when its device stands
constexpr int kUnknownRanks = 32;  // of a worker to fence that was never met: as many as a manifest allows

std::vector<KvPart> own_parts(const KvGroupOptions& options) {
  auto parts = kv_parts(options.model, options.shape);
  BATON_CHECK(parts.ok(), std::string(parts.status().message()).c_str());
  return *std::move(parts);
}

double share(const KvPart& part, const SplitModel& model) {
  return static_cast<double>(part.layers()) * part.heads() /
         (static_cast<double>(model.layers) * model.kv_heads);
}

bool cuts_heads(const std::vector<KvSlice>& slices, std::span<const KvPart> senders,
                std::span<const KvPart> receivers) {
  return std::ranges::any_of(slices, [&](const KvSlice& s) {
    return s.part.heads() != senders[s.sender].heads() || s.part.heads() != receivers[s.receiver].heads();
  });
}

// The first address ("lane:host:port") that no other machine reaches; "" when there is none.
std::string loopback_of(const std::vector<std::string>& addresses) {
  const auto found = std::ranges::find_if(
      addresses, [](const std::string& a) { return a.contains(":127.") || a.contains(":[::1]"); });
  return found == addresses.end() ? "" : *found;
}

TransferId transfer_of(const KvEvent& event) {
  return std::visit([](const auto& e) { return e.transfer; }, event);
}

// The deadline is over; it says so once.
bool late(Instant& deadline, Instant now) {
  if (now < deadline) return false;
  // So late only because this process did not run (a paused machine): perhaps the other ranks did not either.
  const bool paused = now - deadline > timers::kOwnPause;
  deadline = paused ? now + timers::kRankSilent : kNever;
  return !paused;
}

}  // namespace

KvGroup::KvGroup(KvGroupOptions options, KvGroupPorts ports)
    : options_(std::move(options)), ports_(std::move(ports)), own_(own_parts(options_)) {
  joined_.insert(0);
}

// ---- peers

absl::Status KvGroup::pair_up(const WorkerDescription& from, Peer& peer) const {
  ASSIGN_OR_RETURN(peer.address, parse_kv_address(from.data_address));
  const ParallelShape& shape = peer.address.shape;
  if (shape.pipeline > 1 && shape.stage_layers.empty())
    return absl::FailedPreconditionError(cat("it does not say how many layers each of its ", shape.pipeline,
                                             " stages has: another version of baton"));
  ASSIGN_OR_RETURN(const std::vector<KvPart> theirs, kv_parts(options_.model, shape));
  ASSIGN_OR_RETURN(peer.in, reslice(theirs, own_));
  ASSIGN_OR_RETURN(peer.out, reslice(own_, theirs));
  if (!options_.heads_apart && (cuts_heads(peer.in, theirs, own_) || cuts_heads(peer.out, own_, theirs)))
    return absl::FailedPreconditionError(cat("tensor ", options_.shape.tensor, " here, tensor ", shape.tensor,
                                             " there: KV layout ", options_.layout,
                                             " cannot be cut by heads"));
  const auto note = [&](Pair pair, const KvPart& part) {
    double& most = peer.pairs[pair];
    most = std::max(most, share(part, options_.model));
  };
  for (const KvSlice& s : peer.in) note({s.receiver, s.sender}, s.part);
  for (const KvSlice& s : peer.out) {
    note({s.sender, s.receiver}, s.part);
    peer.sends[s.sender] += share(s.part, options_.model);
  }
  return absl::OkStatus();
}

// Not refused for it: containers of one machine may share its network and nothing else.
std::string KvGroup::hint(const WorkerDescription& from, const KvAddress& address) const {
  if (options_.host_id.empty() || from.host_id.empty() || options_.host_id == from.host_id) return "";
  const std::string theirs = loopback_of(address.ranks);
  const std::string at = theirs.empty() ? loopback_of(options_.addresses) : theirs;
  if (at.empty()) return "";
  return cat("; ", theirs.empty() ? "this worker" : from.ref.name, " listens for KV on ", at,
             ", which only its own machine reaches: start it with --data ADDRESS, or let it join the "
             "coordinator by an address of the network");
}

void KvGroup::connect(const WorkerDescription& from) {
  const WorkerRef& worker = from.ref;
  if (!peers_.contains(worker)) {
    const bool over = std::ranges::any_of(peers_, [&](const auto& known) {
      return known.first.name == worker.name && known.first.incarnation > worker.incarnation;
    });
    if (over) return ports_.peers({.peer = worker, .error = "that life is over"});
    Peer peer;
    if (const absl::Status paired = pair_up(from, peer); !paired.ok())
      return ports_.peers({.peer = worker, .error = std::string(paired.message())});
    peer.hint = hint(from, peer.address);
    std::erase_if(peers_, [&](const auto& old) { return old.first.name == worker.name; });
    std::erase_if(ranks_, [&](const auto& old) { return old.second.first.name == worker.name; });
    for (int rank = 0; rank < static_cast<int>(peer.address.ranks.size()); ++rank)
      ranks_[rank_ref(worker, rank)] = {worker, rank};
    peers_[worker] = std::move(peer);
  }
  const Peer& peer = peers_.at(worker);
  if (peer.connected) return ports_.peers(summary(worker, peer));
  for (const int rank : joined_) order_connect(rank, worker, peer);
}

void KvGroup::order_connect(int rank, const WorkerRef& worker, const Peer& peer) {
  KvConnectOrder order;
  for (const auto& [pair, share] : peer.pairs) {
    if (pair.first != rank) continue;
    order.peers.push_back(rank_ref(worker, pair.second));
    order.addresses.push_back(peer.address.ranks[pair.second]);
  }
  if (!order.peers.empty()) ports_.order(rank, order);
}

void KvGroup::on_joined(int rank) {
  joined_.insert(rank);
  for (const auto& [worker, peer] : peers_) order_connect(rank, worker, peer);
  for (const Copy& waiting : copies_) ports_.order(rank, KvCopyOrder{waiting.copy});
}

void KvGroup::fence(const WorkerRef& worker) {
  const auto known = peers_.find(worker);
  const int ranks =
      known == peers_.end() ? kUnknownRanks : static_cast<int>(known->second.address.ranks.size());
  for (const int rank : joined_) ports_.order(rank, KvFenceOrder{.worker = worker, .ranks = ranks});
  if (known == peers_.end()) return;
  // It never comes back: nobody is to connect to it, and its name may not come again.
  std::erase_if(ranks_, [&](const auto& rank) { return rank.second.first == worker; });
  peers_.erase(known);
  ports_.peers({.peer = worker, .error = "that life is over"});
}

// How long a byte of a hand-over takes. Measured: ranks send side by side, and the slowest one's part
// decides. Before that each stream was tested alone: streams of a rank take turns, and those that copy from
// memory to memory all do, for a machine has one memory.
double KvGroup::seconds_a_byte(const Peer& peer) const {
  double out = 0;
  if (!peer.sends.empty() && peer.paces.size() == peer.sends.size()) {
    for (const auto& [rank, part] : peer.sends) out = std::max(out, part / peer.paces.at(rank));
    return out;
  }
  std::map<int, double> own, theirs;
  double copies = 0;
  for (const auto& [pair, report] : peer.reports) {
    const double turn = peer.pairs.at(pair) / std::max(report.bytes_per_second, 1.0);
    own[pair.first] += turn;
    theirs[pair.second] += turn;
    if (report.lane == kMemoryLane) copies += turn;
    out = std::max({out, own[pair.first], theirs[pair.second], copies});
  }
  return out;
}

PeerReport KvGroup::summary(const WorkerRef& worker, const Peer& peer) const {
  PeerReport out{.peer = worker, .connected = true};
  std::set<std::string> lanes, notes;
  for (const auto& [pair, report] : peer.reports) {
    lanes.insert(report.lane);
    if (!report.error.empty()) notes.insert(report.error);
    out.latency = std::max(out.latency, report.latency);
  }
  // The sender measures; what the receiver's tests said is then out of date (0: ask the other end).
  const bool told_by_sender = peer.receives && peer.paces.empty() && peer.pairs.size() > 1;
  if (!told_by_sender) out.bytes_per_second = 1 / seconds_a_byte(peer);
  out.lane = join(std::vector<std::string>(lanes.begin(), lanes.end()), "+");
  out.error = join(std::vector<std::string>(notes.begin(), notes.end()), "; ");
  return out;
}

void KvGroup::on_report(int rank, const PeerReport& report) {
  const auto known = ranks_.find(report.peer);
  if (known == ranks_.end()) return;  // told again when this worker is asked to connect to it
  const auto& [worker, their_rank] = known->second;
  Peer& peer = peers_.at(worker);
  const Pair pair{rank, their_rank};
  if (!peer.pairs.contains(pair)) return;
  if (!report.connected) {
    peer.reports.erase(pair);
    peer.connected = false;
    PeerReport down = report;
    down.peer = worker;
    if (peer.pairs.size() > 1)
      down.error = cat("rank ", rank, " to rank ", their_rank, " of ", worker.name, ": ", report.error);
    down.error += peer.hint;
    return ports_.peers(down);
  }
  const auto [it, fresh] = peer.reports.try_emplace(pair, report);
  const double tested = it->second.bytes_per_second;
  it->second = report;
  // Among several streams the rates of each do not add up: see on_pace().
  if (!fresh && peer.pairs.size() > 1) it->second.bytes_per_second = tested;
  if (peer.reports.size() < peer.pairs.size()) return;
  peer.connected = true;
  ports_.peers(summary(worker, peer));
}

void KvGroup::on_pace(int rank, const KvPaceNote& note) {
  const auto known = peers_.find(note.worker);
  if (known == peers_.end() || !known->second.sends.contains(rank)) return;
  Peer& peer = known->second;
  if (peer.pairs.size() == 1) return;  // the rate of its only stream is that of the pair
  peer.paces[rank] = note.bytes_per_second;
  if (peer.connected && peer.paces.size() == peer.sends.size()) ports_.peers(summary(note.worker, peer));
}

// ---- transfers

// Of each own rank: the streams it has part in.
std::vector<std::vector<KvLink>> KvGroup::links(const WorkerRef& worker, bool as_source) const {
  std::vector<std::vector<KvLink>> out(own_.size());
  const auto peer = peers_.find(worker);
  if (peer == peers_.end() || !peer->second.connected) return out;
  for (const KvSlice& s : as_source ? peer->second.out : peer->second.in) {
    const int own = as_source ? s.sender : s.receiver;
    const int theirs = as_source ? s.receiver : s.sender;
    out[own].push_back({.peer = rank_ref(worker, theirs), .part = s.part});
  }
  return out;
}

void KvGroup::start(TransferId id, bool as_source, Instant now) {
  const auto [it, fresh] = transfers_.try_emplace(id);
  BATON_CHECK(fresh, "a transfer is started twice");
  it->second.as_source = as_source;
  it->second.deadline = now + timers::kRequestTotal + timers::kTransferCap;
}

void KvGroup::expect(const KvGrant& grant, Instant now) {
  start(grant.transfer, false, now);
  Transfer& t = transfers_.at(grant.transfer);
  t.landed.report = {.transfer = grant.transfer, .request = grant.request};
  auto streams = links(grant.source, false);
  for (int rank = 0; rank < static_cast<int>(own_.size()); ++rank) {
    if (streams[rank].empty()) continue;
    for (const KvLink& link : streams[rank]) t.open.insert({rank, link.peer});
    ports_.order(rank, KvExpectOrder{.grant = grant, .links = std::move(streams[rank])});
  }
  if (!t.open.empty()) return;
  const std::string why = cat("source lost: ", grant.source.name, " is not connected any more");
  ports_.events(KvFailed{.transfer = grant.transfer, .reason = why, .report = t.landed.report});
  t.error = why;
  t.over = true;
  close(transfers_.find(grant.transfer));
}

void KvGroup::send(const KvSend& send, Instant now) {
  start(send.transfer, true, now);
  Transfer& t = transfers_.at(send.transfer);
  auto streams = links(send.destination, true);
  for (int rank = 0; rank < static_cast<int>(own_.size()); ++rank) {
    if (streams[rank].empty()) continue;
    for (const KvLink& link : streams[rank]) t.open.insert({rank, link.peer});
    ports_.order(rank, KvSendOrder{.send = send, .links = std::move(streams[rank])});
  }
  if (!t.open.empty()) return;
  t.error = "destination is not connected";
  close(transfers_.find(send.transfer));
}

void KvGroup::finish(TransferId transfer, const TokenOutput& first_token, FinishReason finish) {
  const auto it = transfers_.find(transfer);
  if (it == transfers_.end() || it->second.over) return;
  std::set<int> ranks;
  for (const auto& [rank, peer] : it->second.open) ranks.insert(rank);
  for (const int rank : ranks)
    ports_.order(rank, KvFinishOrder{.transfer = transfer, .first_token = first_token, .finish = finish});
}

void KvGroup::abandon(TransferId transfer, Instant now) {
  const auto it = transfers_.find(transfer);
  if (it != transfers_.end() && !it->second.as_source) end_all(it, "abandoned", now);
}

void KvGroup::cancel(TransferId transfer, Instant now) {
  const auto it = transfers_.find(transfer);
  if (it != transfers_.end() && it->second.as_source) end_all(it, "cancelled", now);
}

// All ranks give up what is still open; the transfer closes when the last has said so.
void KvGroup::end_all(Transfers::iterator it, const std::string& why, Instant now) {
  Transfer& t = it->second;
  if (t.over) return;
  t.over = true;
  t.error = why;
  t.deadline = now + timers::kTransferCap;
  std::set<int> ranks;
  for (const auto& [rank, peer] : t.open) ranks.insert(rank);
  for (const int rank : ranks) {
    if (t.as_source) ports_.order(rank, KvCancelOrder{it->first});
    if (!t.as_source) ports_.order(rank, KvAbandonOrder{it->first});
  }
}

// ---- copies to and from host memory

void KvGroup::copy(HostCopy copy, Instant now) {
  Copy& added = copies_.emplace_back(Copy{.copy = std::move(copy), .open = {}, .error = {}});
  added.deadline = now + kCopyLimit;
  for (int rank = 0; rank < static_cast<int>(own_.size()); ++rank) added.open.insert(rank);
  for (const int rank : joined_) ports_.order(rank, KvCopyOrder{added.copy});
}

void KvGroup::on_copied(int rank, const HostCopied& copied, Instant now) {
  const auto it = std::ranges::find(copies_, copied.id, [](const Copy& c) { return c.copy.id; });
  if (it == copies_.end() || it->open.erase(rank) == 0) {
    ++unknown_notes_;
    return;
  }
  if (it->error.empty() && !copied.error.empty()) it->error = cat("rank ", rank, ": ", copied.error);
  while (!copies_.empty() && copies_.front().open.empty()) {
    HostCopied ended{.id = copies_.front().copy.id, .error = std::move(copies_.front().error)};
    copies_.pop_front();
    if (!copies_.empty()) copies_.front().deadline = now + kCopyLimit;
    ports_.copied(std::move(ended));
  }
}

// ---- notes

void KvGroup::on_note(int rank, const KvNote& note, Instant now) {
  if (const auto* report = std::get_if<PeerReport>(&note)) return on_report(rank, *report);
  if (const auto* pace = std::get_if<KvPaceNote>(&note)) return on_pace(rank, *pace);
  if (const auto* copied = std::get_if<HostCopied>(&note)) return on_copied(rank, *copied, now);
  on_event(rank, std::get<KvStreamNote>(note), now);
}

void KvGroup::on_event(int rank, const KvStreamNote& note, Instant now) {
  const auto it = transfers_.find(transfer_of(note.event));
  const std::pair<int, WorkerRef> stream{rank, note.peer};
  if (it == transfers_.end() || !it->second.open.contains(stream)) {
    ++unknown_notes_;
    return;
  }
  Transfer& t = it->second;
  if (const auto* failed = std::get_if<KvFailed>(&note.event)) {  // its KvDrained follows
    if (t.over) return;
    ports_.events(*failed);
    return end_all(it, failed->reason, now);
  }
  t.open.erase(stream);
  if (const auto* landed = std::get_if<KvLanded>(&note.event)) {
    on_landed(it, *landed);
    note_received(note.peer);
  }
  const auto* drained = std::get_if<KvDrained>(&note.event);
  if (drained != nullptr && !drained->error.empty()) end_all(it, drained->error, now);
  if (t.open.empty()) close(it);
}

// From now on the sender says how fast that is.
void KvGroup::note_received(const WorkerRef& their_rank) {
  const auto known = ranks_.find(their_rank);
  if (known == ranks_.end()) return;
  const WorkerRef& worker = known->second.first;
  Peer& peer = peers_.at(worker);
  if (std::exchange(peer.receives, true) || !peer.connected || peer.pairs.size() == 1) return;
  ports_.peers(summary(worker, peer));
}

void KvGroup::on_landed(Transfers::iterator it, const KvLanded& landed) {
  Transfer& t = it->second;
  TransferReport& sum = t.landed.report;
  if (!t.any_landed) {
    t.landed = landed;
    t.any_landed = true;
    return;
  }
  sum.bytes += landed.report.bytes;
  sum.duration = std::max(sum.duration, landed.report.duration);
  sum.exposed = std::max(sum.exposed, landed.report.exposed);
  if (!sum.lane.contains(landed.report.lane)) sum.lane += cat("+", landed.report.lane);
}

void KvGroup::close(Transfers::iterator it) {
  const TransferId id = it->first;
  Transfer t = std::move(it->second);
  transfers_.erase(it);
  if (!t.as_source && !t.over) return ports_.events(std::move(t.landed));
  ports_.events(KvDrained{.transfer = id, .as_source = t.as_source, .error = t.error});
}

// ---- time

void KvGroup::on_tick(Instant now) {
  for (auto& [id, t] : transfers_)
    if (late(t.deadline, now))
      ports_.lost(cat("rank ", t.open.begin()->first, " does not end its part of transfer ", to_string(id)));
  if (!copies_.empty() && late(copies_.front().deadline, now))
    ports_.lost(cat("rank ", *copies_.front().open.begin(), " does not end its part of copy ",
                    to_string(copies_.front().copy.id)));
}

Instant KvGroup::next_deadline() const {
  Instant next = kNever;
  for (const auto& [id, t] : transfers_) next = std::min(next, t.deadline);
  if (!copies_.empty()) next = std::min(next, copies_.front().deadline);
  return next;
}

}  // namespace baton::worker
