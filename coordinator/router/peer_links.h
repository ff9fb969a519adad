#pragma once

#include <map>
#include <string>
#include <utility>

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
};

// Every pair that was told to connect. A pair has no direction: KV may flow either way.
// Thread: control.
class PeerLinks {
 public:
  void expect(const WorkerRef& a, const WorkerRef& b, Instant give_up);
  // `from` says how it stands with report.peer. False when nobody asked for that pair.
  bool report(const WorkerRef& from, const PeerReport& report);
  void mark_down(const WorkerRef& a, const WorkerRef& b);
  void forget(const WorkerRef& worker);

  PeerLink link(const WorkerRef& a, const WorkerRef& b) const;
  void on_tick(Instant now);  // pending past its time is down (a later report brings it up again)
  Instant next_deadline() const;
  // Pairs of `worker` that are not up: they are asked again when it matters.
  bool empty() const { return pairs_.empty(); }

 private:
  struct End {
    bool answered = false;
    PeerReport report;
  };
  struct Pair {
    End first, second;  // in the order of their refs
    Instant give_up = kNever;
    bool down = false;
  };
  using Key = std::pair<WorkerRef, WorkerRef>;
  static Key key(const WorkerRef& a, const WorkerRef& b);
  static PeerLink::State state(const Pair& pair);

  std::map<Key, Pair> pairs_;
};

}  // namespace baton::coordinator
