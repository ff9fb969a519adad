#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "worker/engine/engine_counters.h"
#include "worker/kv_cache/kv_cache.h"
#include "worker/kv_cache/kv_exchange.h"
#include "worker/schedule/scheduler.h"

namespace baton::worker {

struct EngineOptions {
  int64_t blocks = 0;
  int32_t block_tokens = 16;
  HostTierOptions host;
  SchedulerOptions scheduler;
  size_t prompt_values = 1 << 16;  // log probabilities of a prompt in one report: a MiB on the wire, about
};

// One worker's requests as a deterministic state machine (design I6): scheduler, block pool and the two
// halves of KV hand-over, without clock, thread or socket. Production drives it with EngineLoop, the
// simulator with its heap of events:
//
//   engine.on_message(m, now); engine.on_kv_event(e, now); engine.on_host_copied(e, now);   any order
//   engine.on_tick(now);
//   if (const StepPlan* plan = engine.plan(now)) {
//     executor.start(*plan, [&](int layer) { engine.on_layer(*plan, layer); }, result);
//   } else if (const StepPlan* plan = engine.oldest()) {
//     executor.finish(*plan, result); engine.on_step_done(result, now);
//   } else { sleep until engine.next_deadline() or the next event }
//   engine.drain_messages(out);
//
// As many plans run at once as scheduler.plans_in_flight says: one unless the worker is a pipeline, or its
// device feeds tokens back.
//
// What it promises the coordinator about each accepted leg: its tokens in order, exactly one SequenceTokens
// with a finish unless it was released first (kPrefill: none when it ends well), and exactly one Released,
// when no block and no transfer of it is held any more. A refused Submit is followed by nothing. Release of
// an unknown request is ignored. A request id may be submitted again as soon as it was released. A peer's
// death reaches it as the ends of the transfers with that peer.
//
// Thread: engine. Owns cache, scheduler and sequences; borrows the exchange. Errors: requests are refused
// with a reason or end with kError; a broken invariant aborts.
class Engine final : private AdmissionListener {
 public:
  Engine(const EngineOptions& options, KvExchange& exchange);
  ~Engine() override;

  // From CoordinatorHello, before the first Submit. The same key again changes nothing; another key empties
  // nothing but finds nothing older.
  void set_hash_key(const HashKey& key);
  void set_draining(bool draining) { draining_ = draining; }
  bool draining() const { return draining_; }

  // CoordinatorHello (its hash key), Submit, Release; the others are not for the engine and ignored.
  void on_message(const CoordinatorMessage& message, Instant now);
  void on_kv_event(const KvEvent& event, Instant now);
  void on_host_copied(const HostCopied& event, Instant now);
  void on_tick(Instant now);
  // This worker cannot go on, for `why`: gives every request back with kWorkerEnds. Transfers are abandoned
  // or cancelled.
  void give_up(const std::string& why);
  // The same, of an executor that will not finish what was started.
  void break_off(const std::string& why);

  // nullptr when there is nothing to compute, or enough is running. The plan is valid until its
  // on_step_done, which must follow.
  const StepPlan* plan(Instant now);
  // The running plan that must be finished next; nullptr when none runs.
  const StepPlan* oldest() const { return running_ == 0 ? nullptr : &plans_[oldest_]; }
  bool full() const { return running_ == plans_.size(); }
  // While the step runs, at most once: makes the plan of the next one as far as it is known. Optional: it
  // changes what the time between two steps is spent on, nothing else. With several plans in flight there is
  // nothing to prepare: they are made while others run.
  void prepare();
  // Of a running plan, inside the executor's start() or finish() of it.
  void on_layer(const StepPlan& plan, int layer);
  // Of the oldest plan.
  void on_step_done(const StepResult& result, Instant now);
  // The earliest time at which on_tick and plan must be called although nothing happened.
  Instant next_deadline() const;

  // Appends what is to be sent, in order.
  void drain_messages(std::vector<WorkerMessage>& out);

  LoadSnapshot load() const;
  EngineCounters counters() const;
  // No sequence, no transfer, no held block: all are free or cached.
  bool idle() const;
  const KvCache& cache() const { return cache_; }
  const Scheduler& scheduler() const { return scheduler_; }
  void check_invariants() const;

 private:
  // An open transfer of a leg; may outlive its sequence.
  struct Transfer {
    RequestId request;
    Leg leg = Leg::kWhole;
    WorkerRef peer;
    Sequence* sequence = nullptr;  // null once the leg ended
    bool stopped = false;          // failed, drained, or we asked for its end: ask no more
    bool rows_run = false;         // the leg ended, but running steps have rows of it
  };

  std::vector<uint32_t> generations_of(std::span<const BlockId> blocks) const;
  absl::Status on_admitted(Sequence& sequence, int32_t first_block) override;
  void on_dropped(Sequence& sequence, const absl::Status& why) override;

  void on_submit(const Submit& submit, Instant now);
  RefuseReason refusal(const Submit& submit, std::string& detail) const;
  void on_release(const Release& release);
  void on_landed(const KvLanded& event);
  void on_failed(const KvFailed& event);
  void on_drained(const KvDrained& event);
  void on_quiet(TransferId id);
  void close_transfer(std::map<TransferId, Transfer>::iterator transfer);

  void count_step(const StepPlan& plan, const StepResult& result);
  void let_go(Sequence& sequence);
  void take_row(Sequence& sequence, const PlannedRows& planned, const SampledRow& row, Instant now);
  void tell_prompt(const Sequence& sequence);
  void fail_row(Sequence& sequence, const absl::Status& error);
  FinishReason finish_after(const Sequence& sequence) const;
  void end(Sequence& sequence, FinishReason finish, const std::string& error);
  void remove(Sequence& sequence);
  void forget(const Sequence& sequence);
  void close_leg(const Sequence& sequence);
  void refuse(const Sequence& sequence, RefuseReason reason, const std::string& detail);
  SequenceTokens& report_for(const Sequence& sequence);
  void report_end(const Sequence& sequence, FinishReason finish, const std::string& error);
  bool has_news() const;
  void flush_report(StepId step);

  const size_t prompt_values_;
  KvExchange& exchange_;
  KvCache cache_;
  Scheduler scheduler_;
  bool key_set_ = false;
  bool draining_ = false;
  std::vector<StepPlan> plans_;  // a ring: `running_` plans from oldest_ on
  size_t oldest_ = 0;
  size_t running_ = 0;
  StepId last_step_;                    // that was done
  Instant earliest_deadline_ = kNever;  // no sequence's deadline is before it

  absl::flat_hash_map<RequestId, Sequence*> by_request_;  // looked up only, never walked
  std::map<TransferId, Transfer> transfers_;
  absl::flat_hash_set<TransferId>
      transfer_ids_;  // of all legs that are here, waiting ones too; looked up only
  absl::flat_hash_map<SequenceId, std::vector<TokenOutput>> prompt_outputs_;  // until the first token
  absl::flat_hash_map<SequenceId, size_t> report_index_;                      // into report_.sequences
  StepReport report_;                                                         // since the last one was made
  std::vector<Released> released_;                                            // follow that report
  std::vector<WorkerMessage> outgoing_;
  EngineCounters counters_;
};

}  // namespace baton::worker
