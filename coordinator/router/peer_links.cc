#include "coordinator/router/peer_links.h"

#include <algorithm>

namespace baton::coordinator {

PeerLinks::Key PeerLinks::key(const WorkerRef& a, const WorkerRef& b) {
  return a < b ? Key{a, b} : Key{b, a};
}

void PeerLinks::expect(const WorkerRef& a, const WorkerRef& b, Instant give_up) {
  pairs_[key(a, b)] = Pair{.first = {}, .second = {}, .give_up = give_up, .down = false};
}

bool PeerLinks::report(const WorkerRef& from, const PeerReport& report) {
  const auto it = pairs_.find(key(from, report.peer));
  if (it == pairs_.end()) return false;
  Pair& pair = it->second;
  End& end = from < report.peer ? pair.first : pair.second;
  end = End{.answered = true, .report = report};
  pair.down = false;
  if (pair.first.answered && pair.second.answered) pair.give_up = kNever;
  return true;
}

void PeerLinks::mark_down(const WorkerRef& a, const WorkerRef& b) {
  const auto it = pairs_.find(key(a, b));
  if (it != pairs_.end()) it->second.down = true;
}

void PeerLinks::forget(const WorkerRef& worker) {
  std::erase_if(pairs_, [&](const auto& p) { return p.first.first == worker || p.first.second == worker; });
}

PeerLink::State PeerLinks::state(const Pair& pair) {
  const auto failed = [](const End& end) { return end.answered && !end.report.connected; };
  if (pair.down || failed(pair.first) || failed(pair.second)) return PeerLink::State::kDown;
  if (pair.first.answered && pair.second.answered) return PeerLink::State::kUp;
  return PeerLink::State::kPending;
}

PeerLink PeerLinks::link(const WorkerRef& a, const WorkerRef& b) const {
  const auto it = pairs_.find(key(a, b));
  if (it == pairs_.end()) return {};
  const PeerReport& one = it->second.first.report;
  const PeerReport& two = it->second.second.report;
  PeerLink link{.state = state(it->second), .lane = one.lane.empty() ? two.lane : one.lane};
  link.latency = std::max(one.latency, two.latency);
  // An end that has not measured says 0.
  link.bytes_per_second = one.bytes_per_second <= 0   ? two.bytes_per_second
                          : two.bytes_per_second <= 0 ? one.bytes_per_second
                                                      : std::min(one.bytes_per_second, two.bytes_per_second);
  return link;
}

void PeerLinks::on_tick(Instant now) {
  for (auto& [key, pair] : pairs_) {
    if (pair.give_up > now) continue;
    pair.give_up = kNever;
    pair.down = true;
  }
}

Instant PeerLinks::next_deadline() const {
  Instant next = kNever;
  for (const auto& [key, pair] : pairs_) next = std::min(next, pair.give_up);
  return next;
}

}  // namespace baton::coordinator
