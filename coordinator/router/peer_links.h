#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "transport/messages/messages.h"

namespace baton::coordinator {

// The data-plane connection of two workers as both ends report it.
struct PeerLink {
  enum class State : uint8_t {
    kAbsent,   // nobody was asked to connect them
    kPending,  // asked; not both have answered
    kUp,       // both ends said connected
    kDown,     // an end said it failed, or did not answer in time
  };
  State state = State::kAbsent;
  std::string lane;
  double bytes_per_second = 0;  // the slower of what the ends measured; 0 = not measured
  Duration latency{};           // the larger
  std::string error;            // down: what an end said last
};

const char* to_string(PeerLink::State state);

// Every pair that was told to connect. A pair has no direction: KV may flow either way. A pair that is down
// is asked again each `again`; it stays down, and is not waited for, until both ends say otherwise. Thread:
// control.
class PeerLinks {
 public:
  using Pair = std::pair<WorkerRef, WorkerRef>;  // the smaller ref first
  PeerLinks(Duration give_up, Duration again) : give_up_(give_up), again_(again) {}

  void expect(const WorkerRef& a, const WorkerRef& b, Instant now);
  // `from` says how it stands with report.peer. False when nobody asked for that pair.
  bool report(const WorkerRef& from, const PeerReport& report, Instant now);
  void mark_down(const WorkerRef& a, const WorkerRef& b, Instant now);
  void forget(const WorkerRef& worker);

  PeerLink link(const WorkerRef& a, const WorkerRef& b) const;
  std::vector<std::pair<Pair, PeerLink>> all() const;
  // Pairs that should be asked to connect again now. Pending ones past their time are down from here on.
  std::vector<Pair> on_tick(Instant now);
  Instant next_deadline() const;
  bool any_pending() const;
  bool empty() const { return pairs_.empty(); }

 private:
  struct End {
    bool answered = false;
    PeerReport report;
  };
  struct Standing {
    End first, second;  // in the order of the pair
    bool down = false;
    Instant due = kNever;  // pending: given up; down: asked again
  };
  static Pair pair(const WorkerRef& a, const WorkerRef& b);
  static PeerLink::State state(const Standing& standing);
  static PeerLink link_of(const Standing& standing);
  void settle(Standing& standing, Instant now) const;

  const Duration give_up_;
  const Duration again_;
  std::map<Pair, Standing> pairs_;
};

}  // namespace baton::coordinator
