#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "coordinator/request/request_flow.h"

namespace baton::coordinator {

// What the flow sent to workers, as short lines: "d0 submit r1 decode peer=p0", "p0 release r1".
class RecordingChannel : public WorkerChannel {
 public:
  void send(const WorkerRef& worker, CoordinatorMessage message) override {
    lines.push_back(
        absl::StrCat(worker.name, " ", std::visit([](const auto& m) { return text(m); }, message)));
    if (const auto* submit = std::get_if<Submit>(&message)) submits.emplace_back(worker, *submit);
  }
  std::vector<std::string> take() { return std::exchange(lines, {}); }

  std::vector<std::string> lines;
  std::vector<std::pair<WorkerRef, Submit>> submits;

 private:
  static std::string text(const Submit& s) {
    const char* const leg = s.leg == Leg::kWhole ? "whole" : s.leg == Leg::kPrefill ? "prefill" : "decode";
    return absl::StrCat("submit ", to_string(s.request.id), " ", leg, s.peer ? " peer=" + s.peer->name : "");
  }
  static std::string text(const Release& r) { return absl::StrCat("release ", to_string(r.request)); }
  static std::string text(const ConnectPeer& c) { return absl::StrCat("connect ", c.peer.ref.name); }
  static std::string text(const FencePeer& f) {
    return absl::StrCat("fence ", f.peer.name, " ", to_string(f.peer.incarnation));
  }
  static std::string text(const CoordinatorHello&) { return "hello"; }
  static std::string text(const Ping&) { return "ping"; }
};

// What a client saw, as one line: "started(remote-prefill) 5 6 7 finished(length)".
class RecordingSink : public RequestSink {
 public:
  void on_event(RequestId, RequestEvent event) override {
    EXPECT_FALSE(ended) << "an event after the end";
    if (const auto* started = std::get_if<Started>(&event)) {
      seen.push_back("started(" + started->verdict.path + ")");
    } else if (const auto* tokens = std::get_if<Tokens>(&event)) {
      for (const TokenOutput& t : tokens->tokens) seen.push_back(std::to_string(t.token));
      prompt_tokens += tokens->prompt_tokens.size();
    } else if (const auto* done = std::get_if<Finished>(&event)) {
      seen.push_back(absl::StrCat("finished(", static_cast<int>(done->reason), " ", done->verdict.path, ")"));
      finished = *done;
      ended = true;
    } else {
      failed = std::get<Failed>(event);
      seen.push_back("failed(" + std::string(absl::StatusCodeToString(failed.status.code())) + ")");
      ended = true;
    }
  }
  std::string text() const {
    std::string out;
    for (const auto& s : seen) absl::StrAppend(&out, out.empty() ? "" : " ", s);
    return out;
  }

  std::vector<std::string> seen;
  size_t prompt_tokens = 0;
  Finished finished;
  Failed failed;
  bool ended = false;
};

class RecordingObserver : public RequestObserver {
 public:
  void on_route(RequestId, const Route& route) override { routes.push_back(route.path); }
  void on_tokens(RequestId, int32_t count, bool, Duration) override { tokens += count; }
  void on_end(const RequestRecord& record) override { records.push_back(record); }
  std::vector<std::string> routes;
  std::vector<RequestRecord> records;
  int tokens = 0;
};

// A cluster by hand. Workers p*, d*, a* are prefill, decode, any; every message is sent by the test.
class FlowTest : public testing::Test {
 protected:
  using Lines = std::vector<std::string>;

  explicit FlowTest(FlowOptions options = {}) : flow_(options, router_, channel_, &observer_) {}
  void TearDown() override { flow_.check_invariants(); }

  static WorkerDescription description(const std::string& name, uint64_t incarnation = 1) {
    WorkerDescription d;
    d.ref = {name, Incarnation(incarnation)};
    d.role = name[0] == 'p' ? WorkerRole::kPrefill : name[0] == 'd' ? WorkerRole::kDecode : WorkerRole::kAny;
    d.model_hash = "m";
    d.kv_layout_hash = "k";
    d.numerics_id = "n";
    d.block_tokens = 16;
    d.context_tokens = 4096;
    d.blocks_total = 100;
    return d;
  }
  // Joins, and is connected with all others at once.
  WorkerRef up(const std::string& name, uint64_t incarnation = 1) {
    const WorkerDescription d = description(name, incarnation);
    flow_.on_worker_up(d, now_);
    for (const auto& [other, ref] : refs_) {
      if (other == name) continue;
      say(d.ref, PeerReport{.peer = ref, .connected = true, .lane = "am", .bytes_per_second = 1e9});
      say(ref, PeerReport{.peer = d.ref, .connected = true, .lane = "am", .bytes_per_second = 1e9});
    }
    refs_[name] = d.ref;
    return d.ref;
  }
  void down(const std::string& name) {
    const WorkerRef ref = refs_.at(name);
    refs_.erase(name);
    flow_.on_worker_lost(ref, now_);
  }
  void pair_up() {
    up("p0");
    up("d0");
    channel_.take();
  }

  RecordingSink& submit(uint64_t id, int32_t prompt_tokens = 40, int32_t max_tokens = 4,
                        QueueWait wait = QueueWait::kBounded) {
    GenerateRequest r;
    r.id = RequestId(id);
    r.prompt.assign(prompt_tokens, 3);
    r.stop.max_tokens = max_tokens;
    return submit(r, wait);
  }
  RecordingSink& submit(const GenerateRequest& r, QueueWait wait = QueueWait::kBounded) {
    const uint64_t id = r.id.value();
    sinks_[id] = std::make_shared<RecordingSink>();
    flow_.on_submit(r, sinks_[id], now_, wait);
    return *sinks_[id];
  }
  void cancel(uint64_t id) { flow_.on_cancel(RequestId(id), now_); }

  void say(const WorkerRef& from, const WorkerMessage& m) {
    flow_.on_worker_message(from, m, now_);
    flow_.check_invariants();
  }
  void accept(const std::string& worker, uint64_t id, Leg leg, int32_t cached = 0) {
    say(refs_.at(worker), SubmitReply{RequestId(id), leg, true, RefuseReason::kNone, "", cached});
  }
  void refuse(const std::string& worker, uint64_t id, Leg leg,
              RefuseReason reason = RefuseReason::kNoBlocks) {
    say(refs_.at(worker), SubmitReply{RequestId(id), leg, false, reason, "no room"});
  }
  void tokens(const std::string& worker, uint64_t id, Leg leg, const std::vector<TokenId>& ids,
              FinishReason finish = FinishReason::kNone) {
    SequenceTokens s{.request = RequestId(id), .leg = leg, .finish = finish, .error = "it broke"};
    for (const TokenId t : ids) s.tokens.push_back({.token = t});
    say(refs_.at(worker), StepReport{.sequences = {s}});
  }
  void landed(const std::string& worker, uint64_t id, bool ok = true) {
    const LedgerLeg* leg = flow_.ledger().find(RequestId(id), refs_.at(worker));
    say(refs_.at(worker), TransferReport{.transfer = leg == nullptr ? last_transfer() : leg->transfer,
                                         .request = RequestId(id),
                                         .ok = ok,
                                         .error = ok ? "" : "torn",
                                         .bytes = 1000});
  }
  void released(const std::string& worker, uint64_t id, Leg leg) {
    say(refs_.at(worker), Released{RequestId(id), leg});
  }
  TransferId last_transfer() const { return channel_.submits.back().second.transfer; }
  void wait(Duration d) {
    now_ += d;
    flow_.on_tick(now_);
    flow_.check_invariants();
  }

  // Brings request `id` on p0 and d0 to a state.
  void to_prefilling(uint64_t id) {
    accept("d0", id, Leg::kDecode);
    accept("p0", id, Leg::kPrefill);
  }
  void to_landing(uint64_t id) {
    to_prefilling(id);
    tokens("p0", id, Leg::kPrefill, {5});
  }
  void to_decoding(uint64_t id) {
    to_landing(id);
    landed("d0", id);
    tokens("d0", id, Leg::kDecode, {6});
  }

  Instant now_{std::chrono::hours(1)};
  RouterOptions router_options_;
  Router router_{router_options_};
  RecordingChannel channel_;
  RecordingObserver observer_;
  RequestFlow flow_;
  std::map<std::string, WorkerRef> refs_;
  std::map<uint64_t, std::shared_ptr<RecordingSink>> sinks_;
};

}  // namespace baton::coordinator
