#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/status.h"
#include "worker/kv_cache/kv_cache.h"
#include "worker/schedule/sequence.h"
#include "worker/schedule/step_plan.h"
#include "worker/schedule/step_time.h"

namespace baton::worker {

enum class PreemptionPolicy : uint8_t {
  kRecompute,  // the youngest gives its blocks back and is computed again later: exact (design I1)
  kReject,     // the youngest ends with an error
};

struct SchedulerOptions {
  int32_t vocab_size = 0;         // prompt ids are below it; 0 = not known here
  int32_t context_tokens = 2048;  // prompt and output
  int32_t token_budget = 2048;    // rows of a step; >= max_running
  int32_t max_running = 256;      // sequences that hold blocks and compute
  int32_t prompt_logit_rows =
      64;                   // of a step: prompt tokens whose logits are wanted. Memory is planned for them
  int plans_in_flight = 1;  // of a pipeline: one for each stage, so that all of them are busy
  // Of a device that feeds drawn tokens back to the next step: whose it can. Then plans_in_flight is 2, and
  // the second plan runs behind the first. Null: no tokens are fed back.
  std::function<bool(const GenerateRequest&)> feeds_back = nullptr;
  int32_t max_waiting = 1024;    // submitted and not begun; more are refused
  int32_t min_chunk = 16;        // the oldest prefill gets this much even when the objective is missed
  int32_t headroom_tokens = 64;  // room for output that must fit at admission beside the whole prompt
  Duration itl_objective = std::chrono::milliseconds(50);    // of a step with decodes in it, or landing
  Duration step_objective = std::chrono::milliseconds(100);  // of a step without: messages wait that long
  Duration grant_wait = std::chrono::milliseconds(500);  // a decode leg that cannot reserve is refused after
  // A sequence whose KV comes from host memory computes it after that long; and does not ask for less than
  // `least_fetch` tokens, which are as soon computed.
  Duration fetch_wait = std::chrono::milliseconds(500);
  int32_t least_fetch = 32;
  PreemptionPolicy preemption = PreemptionPolicy::kRecompute;
  StepTimeOptions step_time;
};

// Told in the middle of plan(). Implemented by Engine.
class AdmissionListener {
 public:
  virtual ~AdmissionListener() = default;
  // The sequence has its whole block table. kPrefill: sending may begin. kDecode: blocks [first_block, prompt
  // blocks) are to be filled. An error takes the sequence out again (blocks and all) with that error.
  virtual absl::Status on_admitted(Sequence& sequence, int32_t first_block) = 0;
  // The sequence cannot go on and will be removed: policy kReject, or the error of on_admitted, or a decode
  // leg that waited in vain for blocks (kResourceExhausted).
  virtual void on_dropped(Sequence& sequence, const absl::Status& why) = 0;
};

// Decides what each step computes: continuous batching under a token budget.
//   1. every decoding sequence gets its row, oldest first; when blocks run out the youngest sequence is
//   preempted;
//   2. begun prefills get chunks, oldest first: the largest whose predicted step time meets the objective;
//   3. waiting sequences are admitted in order of arrival, each only when its whole prompt and head-room fit,
//   minus
//      what the prefix cache holds; at least one token is always left to compute. A prompt whose next
//      block a running prefill is computing waits for it.
// Decode legs reserve all prompt blocks and head-room at once (kLanding) and join the batch when landed() is
// called. A younger sequence never takes blocks for which an older one waits. Sequence ids grow with arrival.
//
// What the prefix cache has in host memory only comes back first: the sequence takes its whole table and is
// kFetching, in no step, while copies run beside the steps; then it goes on as if it had been cached. It
// waits `fetch_wait` at most (a decode leg `grant_wait`), then it computes everything the pool does not have.
//
// Several plans may run at once (`plans_in_flight`, the stages of a pipeline): then a plan takes the oldest
// decoding sequences that are in no other one, at most their share, so that decode sets of equal size follow
// each other through the stages, and chunks of one prompt may be in several plans. Steps end in the order in
// which they were planned. Nobody who is in a running plan loses a block: who should give way is waited for,
// and who is removed keeps its blocks until its last step is done (kFinished). Example: 5 decoding sequences,
// 2 plans: {1 2 3}, {4 5}, and when the first is done {1 2 3} again.
//
// With `feeds_back` a plan made while another runs has the next row of everyone whose token that one draws
// (docs/adr/0018): it is launched before the host sees the token. Who turns out to have stopped becomes
// kFinished, and its row is thrown away.
//
// Life: add -> kWaiting -> plan: kPrefilling -> complete: kDecoding (or kSending) -> finish.
//                        \-> plan: kLanding -> landed: kDecoding      preempted: back to kWaiting
//     kWaiting -> plan: kFetching -> fetched, plan: kPrefilling or kLanding    too late: back to kWaiting
//
// Thread: engine. Owns the sequences; borrows the cache. Errors: the caller validates requests; a wrong call
// aborts. Planning does not allocate once the vectors have grown.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, KvCache& cache);
  ~Scheduler();

  void set_hash_key(const HashKey& key) { hash_key_ = key; }
  // kNone, or why this request can never run here.
  RefuseReason check(const Submit& submit, std::string& detail) const;
  // The vocabulary has it, as far as that is known here.
  bool knows(TokenId token) const {
    return token >= 0 && (options_.vocab_size == 0 || token < options_.vocab_size);
  }
  bool queue_full() const { return waiting_.size() + reserving_.size() >= size_t(options_.max_waiting); }
  Sequence& add(const Submit& submit, Instant now);
  // Prompt tokens that the prefix cache holds for it now.
  int32_t cached_tokens(const Sequence& sequence);

  void plan(Instant now, AdmissionListener& listener, StepPlan& plan);
  // While the last plan runs: makes most of the next one, as far as it does not depend on which tokens come
  // out. A decoding sequence will have one row more at a known position; only whether it goes on is not known
  // yet, and whoever leaves takes its row out again (remove()). plan() then only adds whom it admits. Takes
  // no more than blocks for running sequences, which are theirs either way: calling it or not changes no
  // token and no order of admission. Chunks are cut for the decodes expected now.
  void prepare();
  // plan.rows[index] of the oldest plan was computed; called for each row, in order. Positions advance, full
  // blocks become findable, and when the row samples the sequence is kDecoding (kSending on a prefill leg).
  // The caller then appends the token. A kFinished sequence only comes by; the caller calls bury() when no
  // step has rows of it any more.
  Sequence& computed(const StepPlan& plan, size_t index);
  void bury(Sequence& sequence);
  const std::map<SequenceId, std::unique_ptr<Sequence>>& finished() const { return finished_; }
  // The running steps will never end: forgets that there are any.
  void abandon_steps();
  // The KV of a decode leg came, with its first token: kDecoding.
  void landed(Sequence& sequence, TokenId first_token);
  // That copy in has ended, well or not.
  void fetched(HostCopyId fetch, bool well, Instant now);
  void observe_step(double seconds) {
    step_time_.observe(done_.load, seconds);
  }  // how long the plan took whose rows were computed last

  // Takes the sequence out wherever it is: lets go of its blocks (transfers keep theirs) and forgets it.
  // False when running steps have rows of it: it is kFinished then, and goes with bury().
  bool remove(Sequence& sequence);
  Sequence* find(SequenceId id);
  // By id, in order of arrival.
  const std::map<SequenceId, std::unique_ptr<Sequence>>& sequences() const { return sequences_; }

  // When plan() must be called again although nothing happened (a decode leg has waited long enough).
  Instant next_deadline() const;
  bool has_work() const {
    return !running_.empty() || !waiting_.empty() || !reserving_.empty() || !fetching_.empty();
  }
  size_t waiting() const { return waiting_.size() + reserving_.size(); }
  void fill(LoadSnapshot& load) const;
  uint64_t preemptions() const { return preemptions_; }
  uint64_t prefix_query_tokens() const { return prefix_query_tokens_; }
  uint64_t prefix_hit_tokens() const { return prefix_hit_tokens_; }
  uint64_t host_hit_tokens() const { return host_hit_tokens_; }
  uint64_t fetches_failed() const { return fetches_failed_; }
  Duration fetch_time() const { return fetch_time_; }
  const StepTime& step_time() const { return step_time_; }
  const SchedulerOptions& options() const { return options_; }
  void check_invariants() const;

 private:
  // A step in the making: the plan, who stands behind each row, and what it weighs.
  struct Draft {
    StepPlan plan;
    std::vector<Sequence*> sequences;
    StepLoad load;
    int32_t prompt_logit_rows = 0;
    bool valid = false;
    void clear();
  };

  // A plan whose rows lie with the caller, running.
  struct Flight {
    StepId id;
    std::vector<Sequence*> sequences;  // by row
    StepLoad load;
    // Blocks that publish() took out of tables this plan may compute with: held until it is done.
    std::vector<BlockId> replaced;
  };

  bool is_being_computed(Sequence& sequence);
  void count_decoding();
  void launch(Instant now);
  void end_oldest(const StepPlan& plan);
  int32_t blocks_for(int32_t tokens) const;
  int32_t blocks_wanted(const Sequence& sequence) const;
  static bool yields(const Sequence& sequence);
  static bool goes_on(const Sequence& sequence);
  static bool wants_row(const Sequence& sequence);
  void unprepare(const Sequence& sequence);
  void plan_decodes(AdmissionListener& listener);
  static void add_decode(Sequence& sequence, int32_t position, Draft& draft);
  bool grow(Sequence& sequence, size_t index, AdmissionListener& listener);
  const Sequence* give_up_youngest(size_t from, AdmissionListener& listener);
  void preempt(Sequence& sequence);
  void plan_prefills(Draft& draft);
  int32_t chunk_for(const Sequence& sequence, int32_t first, const Draft& draft) const;
  static void add_chunk(Sequence& sequence, int32_t first, int32_t count, Draft& draft);
  void admit(Instant now, AdmissionListener& listener);
  void match(const Sequence& sequence);  // into matched_
  bool take_blocks(Sequence& sequence);
  int32_t match_host(const Sequence& sequence);  // into slots_; how many
  void begin_fetch(Sequence& sequence, Instant now);
  void end_fetches(Instant now, AdmissionListener& listener);
  void fetch_failed(Sequence& sequence, Instant now);
  void count_cached(Sequence& sequence);
  void admit_decode_leg(Sequence& sequence, Instant now, AdmissionListener& listener);
  void admit_prefill(Sequence& sequence, AdmissionListener& listener);
  bool expire_grants(Instant now, AdmissionListener& listener);
  void drop(Sequence& sequence, const absl::Status& why, AdmissionListener& listener);
  void publish(Sequence& sequence);
  void extend_hashes(Sequence& sequence, int32_t blocks);

  const SchedulerOptions options_;
  KvCache& cache_;
  HashKey hash_key_;
  StepTime step_time_;
  std::map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  // All in order of id. A sequence is in at most one.
  std::vector<Sequence*> running_;                            // kPrefilling, kDecoding
  std::vector<Sequence*> waiting_;                            // kWaiting, to be computed here
  std::vector<Sequence*> reserving_;                          // kWaiting, decode legs without blocks
  std::vector<Sequence*> fetching_;                           // kFetching
  int32_t landing_ = 0;                                       // sequences in kLanding
  std::map<SequenceId, std::unique_ptr<Sequence>> finished_;  // kFinished
  Draft last_;                   // of the last plan; its rows lie with the caller
  Draft next_;                   // prepared
  std::vector<Flight> flights_;  // a ring: running plans from oldest_ on
  size_t oldest_ = 0;
  size_t running_plans_ = 0;
  Flight done_;                     // whose rows are or were being computed()
  int32_t decoding_ = 0;            // running sequences, when the last plan was made ...
  int32_t decoding_elsewhere_ = 0;  // ... and those of them in other plans
  bool room_wanted_ = false;        // a decode row waits for a running plan to end: nobody is admitted
  std::vector<BlockId> matched_;    // scratch
  std::vector<HostSlot> slots_;     // scratch
  uint64_t next_sequence_ = 1;
  uint64_t next_step_ = 1;
  uint64_t preemptions_ = 0;
  uint64_t prefix_query_tokens_ = 0;
  uint64_t prefix_hit_tokens_ = 0;
  uint64_t host_hit_tokens_ = 0;  // part of it, over host memory
  uint64_t fetches_failed_ = 0;
  Duration fetch_time_{};         // that sequences waited
  SequenceId blocked_;            // this one did not fit ...
  uint64_t blocked_version_ = 0;  // ... into the cache at this version
};

}  // namespace baton::worker
