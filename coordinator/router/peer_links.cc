#include "coordinator/router/peer_links.h"

#include <algorithm>

namespace baton::coordinator {

const char* to_string(PeerLink::State state) {
  switch (state) {
    case PeerLink::State::kAbsent:
      return "absent";
    case PeerLink::State::kPending:
      return "pending";
    case PeerLink::State::kUp:
      return "up";
    case PeerLink::State::kDown:
      return "down";
  }
  return "unknown";
}

PeerLinks::Pair PeerLinks::pair(const WorkerRef& a, const WorkerRef& b) {
  return a < b ? Pair{a, b} : Pair{b, a};
}

void PeerLinks::expect(const WorkerRef& a, const WorkerRef& b, Instant now) {
  Standing& standing = pairs_[pair(a, b)];
  standing = {};
  standing.due = now + give_up_;
}

bool PeerLinks::report(const WorkerRef& from, const PeerReport& report, Instant now) {
  const auto it = pairs_.find(pair(from, report.peer));
  if (it == pairs_.end()) return false;
  Standing& standing = it->second;
  (from < report.peer ? standing.first : standing.second) = End{.answered = true, .report = report};
  if (report.connected) standing.down = false;
  settle(standing, now);
  return true;
}

void PeerLinks::mark_down(const WorkerRef& a, const WorkerRef& b, Instant now) {
  const auto it = pairs_.find(pair(a, b));
  if (it == pairs_.end() || it->second.down) return;
  // What the ends said before is void: both must say anew that they are connected.
  it->second.first.answered = it->second.second.answered = false;
  it->second.down = true;
  settle(it->second, now);
}

void PeerLinks::settle(Standing& standing, Instant now) const {
  switch (state(standing)) {
    case PeerLink::State::kUp:
      standing.due = kNever;
      break;
    case PeerLink::State::kDown:
      standing.due = now + again_;
      break;
    default:
      standing.due = now + give_up_;
      break;
  }
}

void PeerLinks::forget(const WorkerRef& worker) {
  std::erase_if(pairs_, [&](const auto& p) { return p.first.first == worker || p.first.second == worker; });
}

PeerLink::State PeerLinks::state(const Standing& standing) {
  const auto failed = [](const End& end) { return end.answered && !end.report.connected; };
  if (standing.down || failed(standing.first) || failed(standing.second)) return PeerLink::State::kDown;
  return standing.first.answered && standing.second.answered ? PeerLink::State::kUp
                                                             : PeerLink::State::kPending;
}

PeerLink PeerLinks::link(const WorkerRef& a, const WorkerRef& b) const {
  const auto it = pairs_.find(pair(a, b));
  return it == pairs_.end() ? PeerLink{} : link_of(it->second);
}

std::vector<std::pair<PeerLinks::Pair, PeerLink>> PeerLinks::all() const {
  std::vector<std::pair<Pair, PeerLink>> out;
  out.reserve(pairs_.size());
  for (const auto& [pair, standing] : pairs_) out.emplace_back(pair, link_of(standing));
  return out;
}

PeerLink PeerLinks::link_of(const Standing& standing) {
  const PeerReport& one = standing.first.report;
  const PeerReport& two = standing.second.report;
  PeerLink link{.state = state(standing), .lane = one.lane.empty() ? two.lane : one.lane};
  if (link.state == PeerLink::State::kDown) link.error = one.error.empty() ? two.error : one.error;
  link.latency = std::max(one.latency, two.latency);
  // An end that has not measured says 0.
  link.bytes_per_second = one.bytes_per_second <= 0   ? two.bytes_per_second
                          : two.bytes_per_second <= 0 ? one.bytes_per_second
                                                      : std::min(one.bytes_per_second, two.bytes_per_second);
  return link;
}

std::vector<PeerLinks::Pair> PeerLinks::on_tick(Instant now) {
  std::vector<Pair> ask;
  for (auto& [pair, standing] : pairs_) {
    if (standing.due > now) continue;
    standing.down = true;
    standing.due = now + again_;
    ask.push_back(pair);
  }
  return ask;
}

Instant PeerLinks::next_deadline() const {
  Instant next = kNever;
  for (const auto& [pair, standing] : pairs_) next = std::min(next, standing.due);
  return next;
}

bool PeerLinks::any_pending() const {
  return std::ranges::any_of(pairs_,
                             [](const auto& p) { return state(p.second) == PeerLink::State::kPending; });
}

}  // namespace baton::coordinator
