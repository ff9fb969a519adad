// What the agents of one worker's ranks say to each other: orders of rank 0, notes of all.
#include <algorithm>
#include <utility>

#include "base/cat.h"
#include "base/timers.h"
#include "transport/data/byte_codec.h"
#include "worker/kv_transfer/kv_exchange_agent.h"

namespace baton::worker {

using transport::as_bytes;

namespace {

constexpr size_t kMaxErrorText = 1024;

}  // namespace

// ---- rank 0

KvGroupPorts KvExchangeAgent::group_ports() {
  return {.order = [this](int rank, const KvOrder& what) { order(rank, what); },
          .events = [this](KvEvent event) { tell_engine(std::move(event)); },
          .peers = [this](const PeerReport& report) { tell_peer(report); },
          .lost =
              [this](const std::string& why) {
                if (options_.lost) options_.lost(why);
              },
          .copied = options_.copied};
}

void KvExchangeAgent::order(int rank, const KvOrder& order) {
  if (rank == options_.rank) return obey(order);
  const absl::Status sent =
      plane_.send(rank_ref(options_.worker, rank), as_bytes(encode(options_.key, order)));
  // Its loss is told by on_own_rank(); what it was to do ends with this life of the worker.
  sent.IgnoreError();
}

void KvExchangeAgent::join_ranks(Instant now) {
  for (auto& [rank, at] : joins_) {
    if (now < at) continue;
    at = kNever;
    const WorkerRef ref = rank_ref(options_.worker, rank);
    const absl::Status started = plane_.connect({.ref = ref, .data_address = options_.addresses[rank]}, now);
    if (!started.ok()) at = now + timers::kHeartbeat;
  }
}

void KvExchangeAgent::on_own_rank(int rank, const transport::PeerEvent& event) {
  using Kind = transport::PeerEvent::Kind;
  if (!leads()) return;  // without rank 0 this rank's plans end too
  if (event.kind == Kind::kConnected) {
    joins_.erase(rank);
    return group_->on_joined(rank);
  }
  if (event.kind == Kind::kRefused) {  // it is still loading, perhaps
    joins_[rank] = now_ + timers::kHeartbeat;
    return;
  }
  if (options_.lost) options_.lost(cat("the data plane of rank ", rank, " is gone: ", event.detail));
}

int KvExchangeAgent::drain_notes(Instant now) {
  int done = 0;
  for (; !notes_.empty(); ++done) {
    const auto [rank, note] = std::move(notes_.front());
    notes_.pop_front();
    group_->on_note(rank, note, now);
  }
  return done;
}

// ---- every rank

void KvExchangeAgent::note(KvNote note) {
  if (auto* report = std::get_if<PeerReport>(&note))
    report->error.resize(std::min(report->error.size(), kMaxErrorText));
  if (auto* copied = std::get_if<HostCopied>(&note))
    copied->error.resize(std::min(copied->error.size(), kMaxErrorText));
  if (leads()) {
    notes_.emplace_back(options_.rank, std::move(note));
  } else {
    if (options_.fence != nullptr) options_.fence->pass();
    plane_.send(options_.worker, as_bytes(encode(options_.key, note))).IgnoreError();
  }
}

void KvExchangeAgent::on_group_message(const WorkerRef& from, std::span<const std::byte> bytes) {
  const auto rank = ranks_.find(from);
  if (rank != ranks_.end() && leads()) {
    auto note = decode_note(options_.key, bytes);
    if (note.ok()) {
      notes_.emplace_back(rank->second, *std::move(note));
      return;
    }
  } else if (rank != ranks_.end() && rank->second == 0) {
    const auto order = decode_order(options_.key, bytes);
    if (options_.fence != nullptr) options_.fence->pass();
    if (order.ok()) return obey(*order);
  }
  ++counters_.malformed_messages;
}

absl::Status KvExchangeAgent::check_links(std::span<const KvLink> links) const {
  for (const KvLink& link : links) {
    if (link.part.empty() || intersection(link.part, scope_.own) != link.part)
      return absl::InvalidArgumentError(cat(to_string(link.part), " of ", to_string(scope_.own)));
    if (link.part.heads() != scope_.own.heads() && !heads_apart())
      return absl::InvalidArgumentError(
          cat(to_string(link.part), ": KV layout ", options_.layout, " cannot be cut by heads"));
  }
  return absl::OkStatus();
}

void KvExchangeAgent::obey(const KvOrder& order) {
  if (const auto* expect = std::get_if<KvExpectOrder>(&order)) return obey(*expect);
  if (const auto* send = std::get_if<KvSendOrder>(&order)) return obey(*send);
  if (const auto* connect = std::get_if<KvConnectOrder>(&order)) return obey(*connect);
  if (const auto* copy = std::get_if<KvCopyOrder>(&order)) return obey(*copy);
  if (const auto* abandon = std::get_if<KvAbandonOrder>(&order))
    return sink_.abandon(abandon->transfer, now_);
  if (const auto* cancel = std::get_if<KvCancelOrder>(&order)) return source_.cancel(cancel->transfer, now_);
  if (const auto* finish = std::get_if<KvFinishOrder>(&order))
    return source_.finish(finish->transfer, finish->first_token, finish->finish, now_);
  const auto& fence = std::get<KvFenceOrder>(order);
  for (int rank = 0; rank < fence.ranks; ++rank) plane_.fence(rank_ref(fence.worker, rank));
  source_.forget(fence.worker);
  told_paces_.erase(fence.worker);
}

void KvExchangeAgent::obey(const KvExpectOrder& order) {
  const KvGrant& grant = order.grant;
  absl::Status good = check_grant(grant);
  if (good.ok()) good = check_links(order.links);
  for (const KvLink& link : order.links) {
    if (good.ok() && !sink_.expects(link.peer, grant.transfer)) {
      sink_.expect(grant, link, now_);
      continue;
    }
    const std::string why = good.ok() ? "expected already" : std::string(good.message());
    note(KvStreamNote{link.peer, KvFailed{.transfer = grant.transfer, .reason = why}});
    note(KvStreamNote{link.peer, KvDrained{.transfer = grant.transfer, .error = why}});
  }
}

void KvExchangeAgent::obey(const KvSendOrder& order) {
  absl::Status good = check_send(order.send);
  if (good.ok()) good = check_links(order.links);
  if (good.ok() && source_.sends(order.send.transfer)) good = absl::AlreadyExistsError("sent already");
  if (good.ok()) return source_.send(order.send, order.links, now_);
  for (const KvLink& link : order.links)
    note(KvStreamNote{
        link.peer,
        KvDrained{.transfer = order.send.transfer, .as_source = true, .error = std::string(good.message())}});
}

absl::Status KvExchangeAgent::check_copy(const HostCopy& copy) const {
  if (options_.host == nullptr) return absl::FailedPreconditionError("this rank keeps no KV in host memory");
  for (const auto& [block, slot] : copy.blocks)
    if (block.value() >= options_.geometry.blocks || slot.value() >= options_.host_slots)
      return absl::OutOfRangeError(cat("block ", to_string(block), " of ", options_.geometry.blocks,
                                       ", slot ", to_string(slot), " of ", options_.host_slots));
  return absl::OkStatus();
}

void KvExchangeAgent::obey(const KvCopyOrder& order) {
  if (const absl::Status good = check_copy(order.copy); !good.ok())
    return note(HostCopied{.id = order.copy.id, .error = std::string(good.message())});
  options_.host->copy(order.copy);
}

void KvExchangeAgent::obey(const KvConnectOrder& order) {
  for (size_t i = 0; i < order.peers.size(); ++i) {
    const absl::Status started =
        plane_.connect({.ref = order.peers[i], .data_address = order.addresses[i]}, now_);
    if (!started.ok())
      note(PeerReport{.peer = order.peers[i],
                      .error = std::string(started.message()),
                      .over = absl::IsFailedPrecondition(started)});
  }
}

}  // namespace baton::worker
