#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/timers.h"
#include "coordinator/membership/lease_store.h"

namespace baton::coordinator {

enum class WorkerState : uint8_t {
  kStarting,  // joined, its control stream is not open yet
  kReady,
  kSuspect,   // nothing heard for timers::kSuspect, or its step does not end: gets no new requests
  kDraining,  // finishes what it has
};
const char* to_string(WorkerState state);

struct WorkerView {
  WorkerDescription description;
  WorkerState state = WorkerState::kStarting;
  LoadSnapshot load;
  Instant heard{};            // last message
  bool stands_still = false;  // its engine's step does not end: suspect although it speaks
};

// ---- what membership decided, in order

// Open (and keep open) a control stream to it; ends with StopStream.
struct StartStream {
  WorkerRef worker;
  std::string control_address;
};
struct StopStream {
  WorkerRef worker;
};
struct WorkerUp {
  WorkerDescription worker;
};
// Suspect and draining workers keep what they have and get nothing new.
struct WorkerTakesRequests {
  WorkerRef worker;
  bool takes = false;
  bool silent = false;  // suspect: it soon speaks or is lost
};
// That life is over; nothing of it is listened to any more. Only after WorkerUp.
struct WorkerLost {
  WorkerRef worker;
  std::string why;
};
using MembershipDecision = std::variant<StartStream, StopStream, WorkerUp, WorkerTakesRequests, WorkerLost>;

struct MembershipOptions {
  Duration lease_ttl = timers::kLeaseTtl;
  Duration suspect = timers::kSuspect;
  Duration dead = timers::kDead;
  Duration step_suspect = timers::kStepSuspect;
  Duration step_dead = timers::kStepDead;
  Duration stall = timers::kHeartbeat;  // a tick that is later than this was this process's own fault
  size_t max_names = 4096;              // of workers alive, and as many that are over
};

// Who is there. A worker joins with a lease, its stream opens (up), it talks (ready), falls silent (suspect,
// then lost), drains, leaves. A stream that breaks is a loss at once: what was under way on it is unknown, so
// that life is fenced and the process comes back as a new incarnation. A lease matters only while no stream
// is open; serving needs no renewals.
//
// A worker whose process speaks while its engine stands in one step is suspect, and lost when the step takes
// longer still; so is one of which a peer says that this life was given up (by a coordinator before this
// one).
//
// Silence counts only while this process listens: a tick that comes late moves every deadline by as much, for
// what the workers said meanwhile may lie unread.
//
// Example: kill -9: the stream closes within milliseconds -> WorkerLost; the supervisor starts the process
// again, which joins with a larger incarnation -> StartStream, WorkerUp.
//
// Thread: control. Errors: join and renew answer life_over() to a life that is over, kNotFound to an
// unknown lease, kResourceExhausted when there are too many names.
class Membership {
 public:
  explicit Membership(MembershipOptions options = {});

  absl::StatusOr<uint64_t> join(const WorkerDescription& worker, Instant now);
  absl::Status renew(const WorkerRef& worker, uint64_t lease, Instant now);
  absl::Status leave(const WorkerRef& worker, uint64_t lease, Instant now);

  void stream_opened(const WorkerDescription& worker, Instant now);
  // `was_open` false: an attempt that failed; another one is under way.
  void stream_closed(const WorkerRef& worker, bool was_open, const std::string& why, Instant now);
  // False for a life that is over: the message must not be acted on.
  bool heard(const WorkerRef& worker, const WorkerMessage& message, Instant now);

  void on_tick(Instant now);
  Instant next_deadline() const;
  void take_decisions(std::vector<MembershipDecision>& out);

  // By name.
  const std::map<std::string, WorkerView>& workers() const { return workers_; }
  const WorkerView* find(const WorkerRef& worker) const;

 private:
  WorkerView* live(const WorkerRef& worker);
  void note_step(WorkerView& view, const Pong& pong);
  bool fenced(const WorkerRef& worker) const;
  void lose(const std::string& name, const std::string& why);
  void fence(const WorkerRef& worker);
  void forgive_own_stall(Instant now);
  void set_state(WorkerView& view, WorkerState state);

  const MembershipOptions options_;
  LeaseStore leases_;
  std::map<std::string, WorkerView> workers_;
  struct Fence {
    Incarnation incarnation;  // the youngest life that is over
    uint64_t order = 0;       // of fencing
  };
  std::map<std::string, Fence> fences_;  // by name
  uint64_t fenced_lives_ = 0;
  std::vector<MembershipDecision> decisions_;
};

}  // namespace baton::coordinator
