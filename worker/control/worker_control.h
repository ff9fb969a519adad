#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/clock.h"
#include "base/mailbox.h"
#include "transport/rpc/control_server.h"
#include "transport/rpc/membership_client.h"
#include "worker/engine/engine_loop.h"

namespace baton::worker {

struct WorkerControlOptions {
  WorkerDescription worker;            // control_address is filled in
  std::string listen = "127.0.0.1:0";  // of the control server
  std::string advertise;               // host that the coordinator connects to; empty: that of `listen`
  std::string join;                    // host:port of the coordinator's membership service
  transport::RpcSecurity security;
};

// What the control side drives. All callable from its thread; all outlive it.
struct WorkerControlParts {
  EngineMailbox& engine;
  std::function<EngineStatus()> engine_status;
  std::function<bool(const WorkerDescription&)> connect_peer;  // false: too much waits there
  std::function<bool(const WorkerRef&)> fence_peer;
  std::function<void(const absl::Status&)> on_fenced;  // this life of the worker is over
  // Compiles the request's grammar, then on_grammar() is called; false: too many wait. May be null.
  std::function<bool(RequestId, const Grammar&)> compile = nullptr;
  // A request with a grammar is here no more. May be null.
  std::function<void(RequestId)> forget_grammar = nullptr;
  const Clock& clock;
};

// Between the coordinators and the engine. Each request belongs to the coordinator that submitted it: only
// that one hears of it and may release it. A coordinator that comes back on a new stream starts clean: what
// it had here is released, and it is told first which blocks are cached. One that is gone, or silent for
// timers::kDead, has its requests released; silence counts only while this process listens. Coordinators that
// are connected at the same time must share one hash key.
//
// Thread: run() is the control thread and owns all state; publish(), on_peer(), on_grammar(), begin_drain():
// any. Owns the control server and the membership client. Errors: start() when a port or certificate is no
// good; a stream that misbehaves is closed; a full engine mailbox refuses the submit (kOverloaded),
// everything else waits here for room. A request with a grammar waits until that is compiled, and what is
// said of it behind it.
class WorkerControl {
 public:
  static absl::StatusOr<std::unique_ptr<WorkerControl>> start(const WorkerControlOptions& options,
                                                              const WorkerControlParts& parts);
  ~WorkerControl();

  const WorkerDescription& worker() const { return server_->worker(); }
  // What the engine wants to say. Takes the messages. Path: step 10, from the engine loop, to the
  // coordinator.
  void publish(std::vector<WorkerMessage>& messages);
  void on_peer(const PeerReport& report);
  void on_grammar(RequestId request);
  // Refuses new requests from now on and says so; the coordinator sends none. Leaves the membership.
  void begin_drain();
  bool joined() const { return membership_ && membership_->joined(); }

  void run(std::stop_token stop);

 private:
  struct Published {
    std::vector<WorkerMessage> messages;
  };
  struct Drain {};
  struct Compiled {
    RequestId request;
  };
  using Event = std::variant<transport::ControlServerEvent, transport::MembershipEvent, Published, PeerReport,
                             Drain, Compiled>;
  struct Coordinator {
    transport::StreamId stream;
    bool connected = false;
    Instant heard{};  // last message, or when the stream closed
    std::set<RequestId> requests;
  };

  explicit WorkerControl(const WorkerControlParts& parts);

  absl::Status admit(const CoordinatorHello& hello);
  void on(const transport::ControlServerEvent& event, Instant now);
  void on(const transport::MembershipEvent& event, Instant now);
  void on(Published& published, Instant now);
  void on(const PeerReport& report, Instant now);
  void on(const Drain&, Instant now);
  void on(const Compiled& compiled, Instant now);
  void on_opened(const transport::CoordinatorOpened& opened, Instant now);
  void on_closed(const transport::CoordinatorClosed& closed, Instant now);
  void disconnected(const std::string& id, Coordinator& coordinator);
  void on_said(const std::string& coordinator, transport::StreamId stream, const CoordinatorMessage& message);
  void on_submit(const std::string& coordinator, const Submit& submit);
  void on_release(const std::string& coordinator, const Release& said);
  Pong pong(uint64_t number) const;
  void send_step(const StepReport& report);
  void note_blocks(const StepReport& report);
  void send_cached_blocks(transport::StreamId stream);
  void send_all(const WorkerMessage& message);
  void send_to_owner(RequestId request, const WorkerMessage& message);
  bool pass_on(const Submit& submit);
  void release(RequestId request);
  void post(EngineCommand command);
  void post_waiting();
  void abandon_requests(Coordinator& coordinator);
  void forget(RequestId request);
  void check_silence(Instant now);

  const WorkerControlParts parts_;
  Mailbox<Event> mailbox_;
  std::unique_ptr<transport::ControlServer> server_;
  std::unique_ptr<transport::MembershipClient> membership_;
  std::map<std::string, Coordinator> coordinators_;       // by id
  std::map<transport::StreamId, std::string> by_stream_;  // the coordinator of each open stream
  std::map<WorkerRef, std::string> lanes_;                // of connected peers
  std::map<RequestId, std::string> owners_;  // of every request that is not Released; "" = nobody
  std::deque<EngineCommand> waiting_;        // for room in the engine's mailbox
  struct Held {
    Submit submit;
    bool released = false;  // meanwhile
  };
  std::map<RequestId, Held> held_;         // until their grammars are compiled
  absl::flat_hash_set<BlockHash> cached_;  // stored and not evicted, under the current key
  HashKey engine_key_;                     // the key of `cached_`
  StepId last_step_;
  Instant last_turn_{};
  bool draining_ = false;

  std::mutex admission_mutex_;
  HashKey hash_key_;
  std::set<std::string> admitted_;  // ids of connected coordinators
};

}  // namespace baton::worker
