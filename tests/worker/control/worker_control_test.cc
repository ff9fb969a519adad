#include "worker/control/worker_control.h"

#include <gmock/gmock.h>

#include <atomic>
#include <optional>
#include <thread>

#include "base/cat.h"
#include "base/timers.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/rpc/control_client.h"
#include "transport/rpc/membership_server.h"

namespace baton::worker {
namespace {

using namespace std::chrono_literals;
using transport::ControlClient;
using transport::ControlClientEvent;
using transport::EventLog;
using transport::JoinAccepted;
using transport::JoinCall;
using transport::LeaveCall;
using transport::MembershipCall;
using transport::some_submit;
using transport::some_worker;
using transport::turn_until;
using transport::WorkerSaid;
using transport::WorkerStreamClosed;
using transport::WorkerStreamOpened;

const WorkerRef kWorker{"decode-0", Incarnation(7)};
constexpr HashKey kKey{1, 2};

class Coordinator {
 public:
  Coordinator(const std::string& id, HashKey key = kKey)
      : client(transport::ControlClientOptions{.coordinator_id = id, .term = 1, .hash_key = key},
               log.sink()) {}
  void connect(const WorkerControl& control) {
    ASSERT_TRUE(client.connect(kWorker, control.worker().control_address).ok());
    ASSERT_TRUE(until([this] { return log.count<WorkerStreamOpened>() == 1; }));
  }
  bool until(const std::function<bool()>& done) {
    return turn_until([this] { client.tick(SteadyClock().now()); }, done);
  }
  template <class T>
  std::vector<T> heard() const {
    std::vector<T> out;
    for (const WorkerSaid& said : log.all<WorkerSaid>()) {
      if (const T* one = std::get_if<T>(&said.message)) out.push_back(*one);
    }
    return out;
  }
  template <class T>
  bool hears(size_t times = 1) {
    return until([&] { return heard<T>().size() >= times; });
  }
  bool send(const CoordinatorMessage& message) { return client.send(kWorker, message); }

  EventLog<ControlClientEvent> log;
  ControlClient client;
};

SequenceTokens tokens_of(uint64_t request, TokenId token) {
  return {.request = RequestId(request), .tokens = {TokenOutput{.token = token}}};
}

class WorkerControlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto listening = transport::MembershipServer::start({}, [this](MembershipCall call) {
      if (const auto* join = std::get_if<JoinCall>(&call)) join->reply(join_answer(*join));
      if (const auto* leave = std::get_if<LeaveCall>(&call)) leave->reply(absl::OkStatus());
      return calls.sink()(std::move(call));
    });
    ASSERT_TRUE(listening.ok()) << listening.status();
    membership = *std::move(listening);
  }
  void TearDown() override {
    thread.request_stop();
    if (thread.joinable()) thread.join();
  }
  void start(size_t mailbox_capacity = 1000) {
    mailbox = std::make_unique<EngineMailbox>(mailbox_capacity);
    WorkerControlOptions options;
    options.worker = some_worker(kWorker.name, kWorker.incarnation.value());
    options.join = cat("127.0.0.1:", membership->port());
    WorkerControlParts parts{
        .engine = *mailbox,
        .engine_status =
            [this] {
              EngineStatus status{.load = {.running = 5}, .step_running = step_began.has_value()};
              status.last_turn = step_began.value_or(Instant{});
              status.counters.last_predicted_seconds = 0.25;
              return status;
            },
        .connect_peer =
            [this](const WorkerDescription& peer) { return peers.post(peer.ref) && peers_have_room.load(); },
        .fence_peer = [this](const WorkerRef& peer) { return fences.post(peer); },
        .on_fenced = [this](const absl::Status&) { fenced = true; },
        .compile = [this](RequestId id, const Grammar&) { return compiles && compiling.post(id); },
        .forget_grammar = [this](RequestId) { ++forgotten; },
        .clock = clock};
    auto started = WorkerControl::start(options, parts);
    ASSERT_TRUE(started.ok()) << started.status();
    control = *std::move(started);
    thread = std::jthread([this](std::stop_token stop) { control->run(stop); });
  }
  std::optional<Instant> step_began;  // before start()
  absl::StatusOr<JoinAccepted> join_answer(const JoinCall&) {
    if (refuse_join) return absl::FailedPreconditionError("this life is over");
    return JoinAccepted{1, timers::kLeaseTtl, "a", 1, kKey};
  }
  // What the engine's mailbox got so far, messages of coordinators apart.
  void drain() {
    std::vector<EngineCommand> commands;
    mailbox->drain(commands);
    for (const EngineCommand& command : commands) {
      if (const auto* message = std::get_if<CoordinatorMessage>(&command)) to_engine.push_back(*message);
      if (const auto* key = std::get_if<SetHashKey>(&command)) keys.push_back(key->key);
      if (std::holds_alternative<SetDraining>(command)) draining = true;
    }
  }
  bool engine_gets(size_t messages) {
    return turn_until([this] { drain(); }, [&] { return to_engine.size() >= messages; });
  }
  void publish(std::vector<WorkerMessage> messages) { control->publish(messages); }

  SteadyClock clock;
  EventLog<MembershipCall> calls;
  std::unique_ptr<transport::MembershipServer> membership;
  std::unique_ptr<EngineMailbox> mailbox;
  Mailbox<WorkerRef> peers{100}, fences{100};
  Mailbox<RequestId> compiling{100};
  std::atomic<bool> compiles = true;
  std::atomic<int> forgotten = 0;
  std::atomic<bool> peers_have_room = true, fenced = false, refuse_join = false;
  std::vector<CoordinatorMessage> to_engine;
  std::vector<HashKey> keys;
  bool draining = false;
  std::unique_ptr<WorkerControl> control;
  std::jthread thread;
};

TEST_F(WorkerControlTest, JoinsAndIsReachedAtTheAddressItGave) {
  start();
  ASSERT_TRUE(turn_until([] {}, [&] { return control->joined(); }));
  const WorkerDescription joined = calls.all<JoinCall>()[0].worker;
  EXPECT_TRUE(joined == control->worker());
  Coordinator a("a");
  ASSERT_TRUE(a.client.connect(joined.ref, joined.control_address).ok());
  ASSERT_TRUE(a.until([&] { return a.log.count<WorkerStreamOpened>() == 1; }));
  ASSERT_TRUE(turn_until([&] { drain(); }, [&] { return keys.size() == 1; }));
  EXPECT_TRUE(keys[0] == kKey);
}

TEST_F(WorkerControlTest, ARequestGoesThroughAndItsAnswersComeBackInOrder) {
  start();
  Coordinator a("a");
  a.connect(*control);
  const Submit submit = some_submit(11);
  ASSERT_TRUE(a.send(submit));
  ASSERT_TRUE(engine_gets(1));
  EXPECT_TRUE(to_engine[0] == CoordinatorMessage(submit));
  publish({SubmitReply{.request = RequestId(11), .accepted = true},
           StepReport{.step = StepId(1), .sequences = {tokens_of(11, 42)}}, Released{RequestId(11)}});
  ASSERT_TRUE(a.hears<Released>());
  const auto heard = a.log.all<WorkerSaid>();
  ASSERT_GE(heard.size(), 3u);
  const auto first = std::ranges::find_if(
      heard, [](const WorkerSaid& s) { return std::holds_alternative<SubmitReply>(s.message); });
  ASSERT_NE(first, heard.end());
  EXPECT_EQ(a.heard<StepReport>()[0].sequences[0].tokens[0].token, 42);
  // Once released, the id is free again.
  ASSERT_TRUE(a.send(submit));
  ASSERT_TRUE(engine_gets(2));
}

TEST_F(WorkerControlTest, PingsAreAnsweredWithTheLoad) {
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(Ping{77}));
  ASSERT_TRUE(a.hears<Pong>());
  EXPECT_EQ(a.heard<Pong>()[0].number, 77u);
  EXPECT_EQ(a.heard<Pong>()[0].load.running, 5);
  EXPECT_FALSE(a.heard<Pong>()[0].draining);
  EXPECT_EQ(a.heard<Pong>()[0].step_age, Duration::zero());
}

TEST_F(WorkerControlTest, PingsAreAnsweredWithTheAgeOfTheStep) {
  step_began = clock.now() - 7s;
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(Ping{77}));
  ASSERT_TRUE(a.hears<Pong>());
  EXPECT_GE(a.heard<Pong>()[0].step_age, 7s);
  EXPECT_EQ(a.heard<Pong>()[0].step_predicted, 250ms);
}

TEST_F(WorkerControlTest, EachCoordinatorHearsOfItsOwnRequestsOnly) {
  start();
  Coordinator a("a"), b("b");
  a.connect(*control);
  b.connect(*control);
  ASSERT_TRUE(a.send(some_submit(1)));
  ASSERT_TRUE(b.send(some_submit(2)));
  ASSERT_TRUE(engine_gets(2));
  // Somebody else's request can be neither released nor taken over.
  ASSERT_TRUE(b.send(Release{RequestId(1)}));
  ASSERT_TRUE(b.send(some_submit(1)));
  ASSERT_TRUE(b.hears<SubmitReply>());
  EXPECT_EQ(b.heard<SubmitReply>()[0].reason, RefuseReason::kInvalid);

  publish({StepReport{.step = StepId(1),
                      .sequences = {tokens_of(1, 10), tokens_of(2, 20)},
                      .blocks_stored = {BlockHash{5, 5}},
                      .load = {.running = 9}},
           TransferReport{.request = RequestId(2)}});
  ASSERT_TRUE(a.hears<StepReport>() && b.hears<TransferReport>());
  for (Coordinator* one : {&a, &b}) {
    const StepReport report = one->heard<StepReport>()[0];
    ASSERT_EQ(report.sequences.size(), 1u);
    EXPECT_EQ(report.sequences[0].tokens[0].token, one == &a ? 10 : 20);
    EXPECT_EQ(report.blocks_stored, std::vector<BlockHash>({BlockHash{5, 5}}));
    EXPECT_EQ(report.load.running, 9);
  }
  EXPECT_TRUE(a.heard<TransferReport>().empty());
  drain();
  EXPECT_EQ(to_engine.size(), 2u);  // no release came through
}

TEST_F(WorkerControlTest, ASecondSubmitOfARunningRequestIsRefused) {
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(some_submit(1)));
  ASSERT_TRUE(a.send(some_submit(1)));
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kInvalid);
  publish({StepReport{.sequences = {tokens_of(1, 3)}}});  // the first one goes on
  ASSERT_TRUE(a.hears<StepReport>());
  EXPECT_EQ(a.heard<StepReport>()[0].sequences.size(), 1u);
}

TEST_F(WorkerControlTest, ARefusedRequestIsForgotten) {
  start();
  Coordinator a("a");
  a.connect(*control);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(a.send(some_submit(1)));
    ASSERT_TRUE(engine_gets(i + 1));
    publish({SubmitReply{.request = RequestId(1), .reason = RefuseReason::kNoBlocks}});
    ASSERT_TRUE(a.hears<SubmitReply>(i + 1));
  }
}

TEST_F(WorkerControlTest, CoordinatorsMustAgreeOnTheHashKey) {
  start();
  Coordinator a("a");
  a.connect(*control);
  Coordinator b("b", HashKey{8, 9});
  ASSERT_TRUE(b.client.connect(kWorker, control->worker().control_address).ok());
  ASSERT_TRUE(b.until([&] { return b.log.count<WorkerStreamClosed>() == 1; }));
  EXPECT_EQ(b.log.all<WorkerStreamClosed>()[0].why.code(), absl::StatusCode::kFailedPrecondition);
  a.client.disconnect(kWorker);
  // Alone, its key is as good as any.
  ASSERT_TRUE(b.until([&] { return b.log.count<WorkerStreamOpened>() == 1; }));
  ASSERT_TRUE(turn_until([&] { drain(); }, [&] { return keys.size() == 2; }));
  EXPECT_TRUE(keys[1] == (HashKey{8, 9}));
}

TEST_F(WorkerControlTest, ALateCoordinatorIsToldWhatIsCached) {
  start();
  Coordinator a("a");
  a.connect(*control);
  publish({StepReport{.step = StepId(1), .blocks_stored = {{1, 0}, {2, 0}, {3, 0}}},
           StepReport{.step = StepId(2), .blocks_evicted = {{2, 0}}}});
  ASSERT_TRUE(a.hears<StepReport>(2));
  Coordinator b("b");
  b.connect(*control);
  ASSERT_TRUE(b.hears<StepReport>());
  EXPECT_THAT(b.heard<StepReport>()[0].blocks_stored,
              ::testing::UnorderedElementsAre(BlockHash{1, 0}, BlockHash{3, 0}));
  a.client.disconnect(kWorker);
  b.client.disconnect(kWorker);
  // Under another key these hashes mean nothing.
  Coordinator c("c", HashKey{8, 9});
  c.connect(*control);
  ASSERT_TRUE(c.send(Ping{1}));
  ASSERT_TRUE(c.hears<Pong>());
  EXPECT_TRUE(c.heard<StepReport>().empty());
}

TEST_F(WorkerControlTest, TheRequestsOfALostCoordinatorAreReleased) {
  start();
  Coordinator b("b");
  b.connect(*control);
  ASSERT_TRUE(b.send(some_submit(9)));
  ASSERT_TRUE(engine_gets(1));
  const Instant before = clock.now();
  {
    Coordinator a("a");
    a.connect(*control);
    ASSERT_TRUE(a.send(some_submit(1)));
    ASSERT_TRUE(a.send(some_submit(2)));
    ASSERT_TRUE(engine_gets(3));
  }
  ASSERT_TRUE(b.until([&] { return drain(), to_engine.size() == 5; }));
  EXPECT_GE(clock.now() - before, Duration(timers::kDead));  // it might have come back
  EXPECT_TRUE(to_engine[3] == CoordinatorMessage(Release{RequestId(1)}));
  EXPECT_TRUE(to_engine[4] == CoordinatorMessage(Release{RequestId(2)}));
  publish({Released{RequestId(1)}, Released{RequestId(2)}, Released{RequestId(9)}});
  ASSERT_TRUE(b.hears<Released>());
  EXPECT_EQ(b.heard<Released>().size(), 1u);
  drain();
  EXPECT_EQ(to_engine.size(), 5u);  // released once
}

TEST_F(WorkerControlTest, ACoordinatorThatComesBackStartsClean) {
  start();
  auto a = std::make_unique<Coordinator>("a");
  a->connect(*control);
  ASSERT_TRUE(a->send(some_submit(1)));
  ASSERT_TRUE(engine_gets(1));
  Coordinator again("a");
  again.connect(*control);
  ASSERT_TRUE(engine_gets(2));
  EXPECT_TRUE(to_engine[1] == CoordinatorMessage(Release{RequestId(1)}));
  // What is left of the old stream's request concerns nobody.
  publish({StepReport{.sequences = {tokens_of(1, 3)}}, Released{RequestId(1)}});
  ASSERT_TRUE(again.hears<StepReport>());
  EXPECT_TRUE(again.heard<StepReport>()[0].sequences.empty());
  ASSERT_TRUE(again.send(some_submit(1)));
  ASSERT_TRUE(engine_gets(3));
  EXPECT_TRUE(again.heard<Released>().empty());
}

TEST_F(WorkerControlTest, ASilentCoordinatorIsGone) {
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(some_submit(1)));
  ASSERT_TRUE(engine_gets(1));
  // Its socket stays open, but nobody ticks it: no pings.
  ASSERT_TRUE(turn_until([&] { drain(); }, [&] { return a.log.count<WorkerStreamClosed>() == 1; }));
  EXPECT_EQ(a.log.all<WorkerStreamClosed>()[0].why.code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(engine_gets(2));
  EXPECT_TRUE(to_engine[1] == CoordinatorMessage(Release{RequestId(1)}));
}

TEST_F(WorkerControlTest, DrainingIsToldToEverybody) {
  start();
  ASSERT_TRUE(turn_until([] {}, [&] { return control->joined(); }));
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(some_submit(1)));
  ASSERT_TRUE(engine_gets(1));
  control->begin_drain();
  ASSERT_TRUE(a.until([&] { return !a.heard<Pong>().empty() && a.heard<Pong>().back().draining; }));
  ASSERT_TRUE(turn_until([&] { drain(); }, [&] { return draining && calls.count<LeaveCall>() == 1; }));
  ASSERT_TRUE(a.send(some_submit(2)));
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kDraining);
  publish({StepReport{.sequences = {tokens_of(1, 3)}}});  // what it has goes on
  ASSERT_TRUE(a.hears<StepReport>());
}

TEST_F(WorkerControlTest, AFullEngineMailboxRefusesSubmitsAndKeepsTheRest) {
  start(/*mailbox_capacity=*/2);
  Coordinator a("a");
  a.connect(*control);                  // SetHashKey: one place taken
  ASSERT_TRUE(a.send(some_submit(1)));  // two
  ASSERT_TRUE(a.send(some_submit(2)));
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kOverloaded);
  ASSERT_TRUE(a.send(Release{RequestId(1)}));
  ASSERT_TRUE(a.send(Ping{5}));
  ASSERT_TRUE(a.until([&] { return !a.heard<Pong>().empty(); }));
  ASSERT_TRUE(a.until([&] { return drain(), to_engine.size() == 2; }));
  EXPECT_TRUE(to_engine[1] == CoordinatorMessage(Release{RequestId(1)}));
}

Submit with_grammar(uint64_t request) {
  Submit submit = some_submit(request);
  submit.request.grammar = {GrammarKind::kRegex, "a+"};
  return submit;
}

// Others do not wait for it; what is said of it does.
TEST_F(WorkerControlTest, ARequestWaitsForItsGrammar) {
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(with_grammar(1)));
  ASSERT_TRUE(a.send(with_grammar(2)));
  ASSERT_TRUE(a.send(Release{RequestId(1)}));
  ASSERT_TRUE(a.send(with_grammar(1)));
  ASSERT_TRUE(a.send(some_submit(3)));
  ASSERT_TRUE(engine_gets(1));
  EXPECT_TRUE(to_engine[0] == CoordinatorMessage(some_submit(3)));
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kInvalid) << "it is here already";
  control->on_grammar(RequestId(2));
  ASSERT_TRUE(engine_gets(2));
  EXPECT_TRUE(to_engine[1] == CoordinatorMessage(with_grammar(2)));
  control->on_grammar(RequestId(1));
  ASSERT_TRUE(engine_gets(4));
  EXPECT_TRUE(to_engine[2] == CoordinatorMessage(with_grammar(1)));
  EXPECT_TRUE(to_engine[3] == CoordinatorMessage(Release{RequestId(1)}));
  ASSERT_TRUE(a.send(Release{RequestId(2)}));
  ASSERT_TRUE(engine_gets(5));
  EXPECT_TRUE(to_engine[4] == CoordinatorMessage(Release{RequestId(2)}));
  control->on_grammar(RequestId(9));  // nobody's
}

TEST_F(WorkerControlTest, TooManyGrammarsAreRefused) {
  compiles = false;
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(with_grammar(1)));
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kOverloaded);
}

TEST_F(WorkerControlTest, DrainingRefusesWhatIsHeld) {
  start();
  Coordinator a("a");
  a.connect(*control);
  ASSERT_TRUE(a.send(with_grammar(1)));
  ASSERT_TRUE(turn_until([] {},
                         [&] {
                           std::vector<RequestId> ids;
                           return compiling.drain(ids) == 1;
                         }));
  control->begin_drain();
  ASSERT_TRUE(a.hears<SubmitReply>());
  EXPECT_EQ(a.heard<SubmitReply>()[0].reason, RefuseReason::kDraining);
  control->on_grammar(RequestId(1));
  ASSERT_TRUE(turn_until([] {}, [&] { return forgotten.load() == 2; })) << "at the refusal and when compiled";
  drain();
  EXPECT_TRUE(to_engine.empty());
}

// A lost coordinator's request is released behind the grammar as well.
TEST_F(WorkerControlTest, AHeldRequestOfALostCoordinatorIsReleased) {
  start();
  auto a = std::make_unique<Coordinator>("a");
  a->connect(*control);
  ASSERT_TRUE(a->send(with_grammar(1)));
  ASSERT_TRUE(turn_until([] {},
                         [&] {
                           std::vector<RequestId> ids;
                           return compiling.drain(ids) == 1;
                         }));
  Coordinator again("a");
  again.connect(*control);  // starts clean
  control->on_grammar(RequestId(1));
  ASSERT_TRUE(engine_gets(2));
  EXPECT_TRUE(to_engine[1] == CoordinatorMessage(Release{RequestId(1)}));
}

TEST_F(WorkerControlTest, PeersAreTheDataPlanesBusiness) {
  start();
  Coordinator a("a"), b("b");
  a.connect(*control);
  b.connect(*control);
  const WorkerDescription peer = some_worker("prefill-0", 3);
  ASSERT_TRUE(a.send(ConnectPeer{peer}));
  ASSERT_TRUE(a.send(FencePeer{peer.ref}));
  std::vector<WorkerRef> connected, fenced_peers;
  ASSERT_TRUE(turn_until([&] { peers.drain(connected), fences.drain(fenced_peers); },
                         [&] { return connected.size() == 1 && fenced_peers.size() == 1; }));
  EXPECT_TRUE(connected[0] == peer.ref && fenced_peers[0] == peer.ref);
  control->on_peer({.peer = peer.ref, .connected = true, .lane = "local", .bytes_per_second = 1e9});
  ASSERT_TRUE(a.hears<PeerReport>() && b.hears<PeerReport>());
  EXPECT_TRUE(b.heard<PeerReport>()[0].connected);
  peers_have_room = false;
  ASSERT_TRUE(a.send(ConnectPeer{peer}));
  ASSERT_TRUE(a.hears<PeerReport>(2));
  EXPECT_FALSE(a.heard<PeerReport>()[1].connected);
  EXPECT_FALSE(a.heard<PeerReport>()[1].error.empty());
}

TEST_F(WorkerControlTest, AFencedLifeIsReportedToItsOwner) {
  refuse_join = true;
  start();
  ASSERT_TRUE(turn_until([] {}, [&] { return fenced.load(); }));
  EXPECT_FALSE(control->joined());
}

TEST_F(WorkerControlTest, APortInUseIsAnError) {
  start();
  WorkerControlOptions options;
  options.worker = some_worker("decode-1", 1);
  options.listen = control->worker().control_address;
  options.join = "127.0.0.1:1";
  const WorkerControlParts parts{.engine = *mailbox,
                                 .engine_status = [] { return EngineStatus{}; },
                                 .connect_peer = {},
                                 .fence_peer = {},
                                 .on_fenced = {},
                                 .clock = clock};
  EXPECT_EQ(WorkerControl::start(options, parts).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace baton::worker
