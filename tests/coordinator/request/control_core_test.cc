#include "coordinator/request/control_core.h"

#include "flow_fixture.h"

namespace baton::coordinator {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class RecordingStreams : public WorkerStreams {
 public:
  void send(const WorkerRef& worker, CoordinatorMessage message) override {
    sent.send(worker, std::move(message));
  }
  void connect(const WorkerRef& worker, const std::string& address) override {
    sent.lines.push_back(worker.name + " open " + address);
  }
  void disconnect(const WorkerRef& worker) override { sent.lines.push_back(worker.name + " close"); }
  Instant tick(Instant) override { return kNever; }
  RecordingChannel sent;
};

class ControlCoreTest : public testing::Test {
 protected:
  WorkerDescription description(uint64_t incarnation) {
    WorkerDescription d;
    d.ref = {"a0", Incarnation(incarnation)};
    d.control_address = "127.0.0.1:9";
    d.block_tokens = 16;
    d.context_tokens = 512;
    d.blocks_total = 100;
    return d;
  }
  absl::Status join(uint64_t incarnation) {
    absl::Status answer = absl::UnknownError("never answered");
    core_.handle(JoinWorker{description(incarnation),
                            [&](absl::StatusOr<uint64_t> lease) { answer = lease.status(); }},
                 now_);
    return answer;
  }
  void up(uint64_t incarnation) {
    EXPECT_TRUE(join(incarnation).ok());
    core_.handle(StreamOpened{description(incarnation)}, now_);
  }
  std::shared_ptr<RecordingSink> submit(uint64_t id) {
    GenerateRequest r;
    r.id = RequestId(id);
    r.prompt.assign(20, 3);
    auto sink = std::make_shared<RecordingSink>();
    core_.handle(SubmitRequest{r, sink}, now_);
    return sink;
  }
  void say(uint64_t incarnation, WorkerMessage m) {
    core_.handle(WorkerMessageArrived{{"a0", Incarnation(incarnation)}, std::move(m)}, now_);
  }
  void wait(Duration d) {
    now_ += d;
    core_.on_tick(now_);
  }

  Instant now_{std::chrono::hours(1)};
  RecordingStreams streams_;
  std::vector<std::string> decisions_;
  ControlCore core_{{}, streams_, nullptr, [this](const MembershipDecision& d) {
                      if (std::holds_alternative<WorkerUp>(d)) decisions_.push_back("up");
                      if (std::holds_alternative<WorkerLost>(d)) decisions_.push_back("lost");
                    }};
};

TEST_F(ControlCoreTest, JoinOpensAStreamAndTheStreamBringsRequests) {
  EXPECT_FALSE(core_.status(now_).can_generate);
  const auto client = submit(1);
  up(1);
  EXPECT_THAT(streams_.sent.take(), ElementsAre("a0 open 127.0.0.1:9", "a0 submit r1 whole"));
  const ClusterStatus status = core_.status(now_);
  EXPECT_TRUE(status.can_generate);
  ASSERT_EQ(status.workers.size(), 1u);
  EXPECT_EQ(status.workers[0].state, "ready");
  EXPECT_EQ(status.context_tokens, 512);
  EXPECT_EQ(status.smallest_pool_tokens, 1600);
  EXPECT_EQ(status.requests_in_flight, 1);
  EXPECT_EQ(status.ledger_entries, 1);
}

// A cluster of two pools: ready when both were up once; what is lost later is /health's matter.
TEST_F(ControlCoreTest, PoolsOfTheManifestAreAwaitedOnce) {
  ControlCore core({.pools = {"decode", "prefill"}}, streams_);
  const auto up = [&](const char* name, const char* pool) {
    WorkerDescription d = description(1);
    d.ref.name = name;
    d.pool = pool;
    core.handle(JoinWorker{d, [](auto) {}}, now_);
    core.handle(StreamOpened{d}, now_);
    return d.ref;
  };
  EXPECT_EQ(core.status(now_).awaited, "no worker of pool decode, prefill has come up yet");
  EXPECT_EQ(core.next_deadline(), kNever) << "nobody is there: that says /ready by itself";
  up("d0", "decode");
  EXPECT_TRUE(core.status(now_).can_generate);
  EXPECT_EQ(core.status(now_).awaited, "no worker of pool prefill has come up yet");
  const WorkerRef prefill = up("p0", "prefill");
  EXPECT_EQ(core.status(now_).awaited, "");
  core.handle(StreamClosed{prefill, true, "reset"}, now_);
  EXPECT_EQ(core.status(now_).awaited, "");
}

// A coordinator that is started anew while a pool is down serves with what is there.
TEST_F(ControlCoreTest, APoolThatDoesNotComeIsNotAwaitedForEver) {
  ControlCore core({.pools = {"decode", "prefill"}}, streams_);
  WorkerDescription d = description(1);
  d.pool = "decode";
  core.handle(JoinWorker{d, [](auto) {}}, now_);
  core.handle(StreamOpened{d}, now_);
  const Instant ends = now_ + timers::kPoolPatience;
  while (now_ < ends) {
    EXPECT_NE(core.status(now_).awaited, "");
    ASSERT_LE(core.next_deadline(), ends);
    now_ = std::min(now_ + milliseconds(250), ends);
    core.handle(WorkerMessageArrived{d.ref, Pong{}}, now_);
    core.on_tick(now_);
  }
  EXPECT_EQ(core.status(now_).awaited, "");
  EXPECT_TRUE(core.status(now_).can_generate);
}

TEST_F(ControlCoreTest, SilenceIsSuspectThenLost) {
  up(1);
  wait(timers::kSuspect);
  EXPECT_EQ(core_.status(now_).workers.at(0).state, "suspect");
  EXPECT_FALSE(core_.status(now_).can_generate);
  streams_.sent.take();
  submit(1);
  EXPECT_THAT(streams_.sent.take(), IsEmpty());
  say(1, Pong{});  // it lives: the queue moves
  EXPECT_THAT(streams_.sent.take(), ElementsAre("a0 submit r1 whole"));
  EXPECT_EQ(core_.next_deadline(), now_ + timers::kSuspect);
  wait(timers::kSuspect);
  wait(timers::kDead - timers::kSuspect);
  EXPECT_THAT(decisions_, ElementsAre("up", "lost"));
  EXPECT_THAT(streams_.sent.take(),
              ElementsAre("a0 release r1", "a0 close"));  // it had not answered r1 either
  EXPECT_EQ(core_.flow().queued(), 1u);
  EXPECT_FALSE(join(1).ok());  // that life is over
  up(2);
  EXPECT_THAT(streams_.sent.take(), ElementsAre("a0 open 127.0.0.1:9", "a0 submit r1 whole"));
}

TEST_F(ControlCoreTest, ABrokenStreamIsALossAtOnceAndLateWordsAreRefused) {
  up(1);
  const auto client = submit(1);
  core_.handle(StreamClosed{{"a0", Incarnation(1)}, true, "reset"}, now_);
  EXPECT_THAT(decisions_, ElementsAre("up", "lost"));
  say(1, SubmitReply{RequestId(1), Leg::kWhole, true});
  EXPECT_EQ(core_.flow().counters().fenced_messages, 1u);
  EXPECT_EQ(client->text(), "");
  core_.fail_all("stopping", now_);
  EXPECT_EQ(client->text(), "failed(UNAVAILABLE)");
  EXPECT_TRUE(core_.flow().idle());
}

TEST_F(ControlCoreTest, ADrainingWorkerKeepsWhatItHas) {
  up(1);
  const auto client = submit(1);
  say(1, SubmitReply{RequestId(1), Leg::kWhole, true});
  say(1, Pong{.draining = true});
  streams_.sent.take();
  submit(2);
  EXPECT_THAT(streams_.sent.take(), IsEmpty());
  say(1, StepReport{.sequences = {{.request = RequestId(1),
                                   .leg = Leg::kWhole,
                                   .tokens = {{.token = 5}},
                                   .finish = FinishReason::kEndToken}}});
  EXPECT_EQ(client->text(), "started(local) 5 finished(1 local)");
}

TEST_F(ControlCoreTest, CallsAreAnswered) {
  uint64_t lease = 0;
  core_.handle(JoinWorker{description(1), [&](absl::StatusOr<uint64_t> l) { lease = *l; }}, now_);
  absl::Status answer = absl::UnknownError("");
  core_.handle(RenewLease{{"a0", Incarnation(1)}, lease, [&](absl::Status s) { answer = s; }}, now_);
  EXPECT_TRUE(answer.ok());
  core_.handle(RenewLease{{"a0", Incarnation(1)}, lease + 1, [&](absl::Status s) { answer = s; }}, now_);
  EXPECT_TRUE(absl::IsNotFound(answer));
  core_.handle(LeaveCluster{{"a0", Incarnation(1)}, lease, [&](absl::Status s) { answer = s; }}, now_);
  EXPECT_TRUE(answer.ok());
  EXPECT_TRUE(core_.membership().workers().empty());
}

}  // namespace
}  // namespace baton::coordinator
