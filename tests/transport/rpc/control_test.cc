#include <gmock/gmock.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/rpc/control_client.h"
#include "transport/rpc/control_server.h"

namespace baton::transport {
namespace {

using ::testing::HasSubstr;

const WorkerRef kWorker{"decode-0", Incarnation(7)};

// One coordinator: a client, what it heard, and its own idea of time.
struct Coordinator {
  explicit Coordinator(const std::string& id, uint64_t term = 1, QueueBounds queue = {})
      : client(ControlClientOptions{id, term, HashKey{1, 2}, {}, queue}, log.sink()) {}

  void turn() { client.tick(SteadyClock().now()); }
  bool until(const std::function<bool()>& done) {
    return turn_until([this] { turn(); }, done);
  }
  absl::Status connect(const ControlServer& server, const WorkerRef& worker = kWorker) {
    return client.connect(worker, absl::StrCat("127.0.0.1:", server.port()));
  }
  size_t opened() const { return log.count<WorkerStreamOpened>(); }
  std::vector<WorkerStreamClosed> closed() const { return log.all<WorkerStreamClosed>(); }

  EventLog<ControlClientEvent> log;
  ControlClient client;
};

class ControlTest : public ::testing::Test {
 protected:
  void start(const WorkerDescription& worker = some_worker("decode-0", 7),
             ControlServerOptions options = {}) {
    auto started = ControlServer::start(options, worker, log.sink());
    ASSERT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  std::vector<CoordinatorOpened> opened() const { return log.all<CoordinatorOpened>(); }
  std::vector<CoordinatorSaid> said() const { return log.all<CoordinatorSaid>(); }
  std::vector<CoordinatorClosed> closed() const { return log.all<CoordinatorClosed>(); }

  EventLog<ControlServerEvent> log;
  std::unique_ptr<ControlServer> server;
};

TEST_F(ControlTest, HelloBothWays) {
  start();
  Coordinator a("a", 5);
  ASSERT_TRUE(a.connect(*server).ok());
  EXPECT_EQ(a.connect(*server).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_FALSE(a.client.send(kWorker, Ping{1}));  // not open yet
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  const WorkerHello hello = a.log.all<WorkerStreamOpened>()[0].hello;
  EXPECT_TRUE(hello.worker == server->worker());
  EXPECT_EQ(hello.worker.control_address, absl::StrCat("127.0.0.1:", server->port()));
  ASSERT_EQ(opened().size(), 1u);
  EXPECT_TRUE(opened()[0].hello ==
              (CoordinatorHello{kProtocolVersion, "a", 5, HashKey{1, 2}, Incarnation(7)}));
}

TEST_F(ControlTest, AThousandMessagesEachWayStayInOrder) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  const StreamId stream = opened()[0].stream;
  for (uint64_t i = 0; i < 1000; ++i) {
    ASSERT_TRUE(a.client.send(kWorker, Release{RequestId(i)}));
    ASSERT_TRUE(server->send(stream, Released{RequestId(i), Leg::kDecode}));
  }
  ASSERT_TRUE(turn_until([] {}, [&] { return said().size() == 1000 && a.log.count<WorkerSaid>() == 1000; }));
  const auto heard = said();
  const auto answered = a.log.all<WorkerSaid>();
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(heard[i].stream, stream);
    ASSERT_TRUE(heard[i].message == CoordinatorMessage(Release{RequestId(i)})) << i;
    ASSERT_TRUE(answered[i].message == WorkerMessage(Released{RequestId(i), Leg::kDecode})) << i;
  }
}

TEST_F(ControlTest, AnotherIncarnationIsRefusedWithAReason) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server, {"decode-0", Incarnation(6)}).ok());
  ASSERT_TRUE(a.until([&] { return !a.closed().empty(); }));
  EXPECT_EQ(a.closed()[0].why.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(a.closed()[0].why.message()), HasSubstr("incarnation"));
  EXPECT_FALSE(a.closed()[0].was_open);
  EXPECT_TRUE(opened().empty());
}

TEST_F(ControlTest, AnotherWorkerOnThatAddressIsNotTakenForOurs) {
  start(some_worker("prefill-0", 7));
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return !a.closed().empty(); }));
  EXPECT_THAT(std::string(a.closed()[0].why.message()), HasSubstr("prefill-0"));
  EXPECT_EQ(a.opened(), 0u);
}

// On a starved machine the answer may come with the end of the patience: whoever is told of an open stream
// keeps it, for its loss would end the worker's life.
TEST_F(ControlTest, AnAnswerAtTheDeadlineOpensOrIsTooLate) {
  start();
  Coordinator a("a");
  size_t late = 0, in_time = 0;
  for (int i = 0; i < 150 || in_time == 0; ++i) {
    ASSERT_LT(i, 3000) << "no answer is ever in time";
    const size_t opened_before = a.opened(), closed_before = a.closed().size();
    ASSERT_TRUE(a.connect(*server).ok());
    const Instant begun = SteadyClock().now();
    a.client.tick(begun);
    std::this_thread::sleep_for(std::chrono::microseconds(20 * i));
    a.client.tick(begun + timers::kDispatchAck);
    ASSERT_TRUE(
        turn_until([] {}, [&] { return a.opened() + a.closed().size() > opened_before + closed_before; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // for a second event, which there must not be
    EXPECT_EQ(a.opened() + a.closed().size(), opened_before + closed_before + 1) << "attempt " << i;
    ++(a.opened() > opened_before ? in_time : late);
    a.client.disconnect(kWorker);
  }
  EXPECT_GT(late, 0u);
  EXPECT_GT(in_time, 0u);
  for (const WorkerStreamClosed& closed : a.closed()) EXPECT_FALSE(closed.was_open) << closed.why;
}

TEST_F(ControlTest, AHigherTermReplacesAndALowerOneIsFenced) {
  start();
  Coordinator old("a", 1);
  ASSERT_TRUE(old.connect(*server).ok());
  ASSERT_TRUE(old.until([&] { return old.opened() == 1; }));
  Coordinator young("a", 2);
  ASSERT_TRUE(young.connect(*server).ok());
  ASSERT_TRUE(young.until([&] { return young.opened() == 1; }));
  // The old life loses its stream, tries again, and is refused for ever.
  ASSERT_TRUE(old.until([&] { return old.closed().size() >= 2; }));
  EXPECT_EQ(old.closed()[0].why.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(old.closed()[1].why.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(old.closed()[1].why.message()), HasSubstr("fenced"));
  EXPECT_EQ(old.opened(), 1u);
  EXPECT_FALSE(old.client.send(kWorker, Ping{1}));
  ASSERT_TRUE(young.client.send(kWorker, Release{RequestId(3)}));
  ASSERT_TRUE(turn_until([] {}, [&] { return said().size() == 1; }));
  EXPECT_EQ(said()[0].stream, opened()[1].stream);
}

TEST_F(ControlTest, SeveralCoordinatorsAreServedAtOnce) {
  start();
  Coordinator a("a", 9), b("b", 1);  // terms of different coordinators do not compare
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(b.connect(*server).ok());
  ASSERT_TRUE(turn_until([&] { a.turn(), b.turn(); }, [&] { return opened().size() == 2; }));
  for (const auto& one : opened()) {
    ASSERT_TRUE(server->send(one.stream, Released{RequestId(one.hello.term), Leg::kWhole}));
  }
  ASSERT_TRUE(
      turn_until([] {}, [&] { return a.log.count<WorkerSaid>() == 1 && b.log.count<WorkerSaid>() == 1; }));
  EXPECT_EQ(std::get<Released>(a.log.all<WorkerSaid>()[0].message).request, RequestId(9));
  EXPECT_EQ(std::get<Released>(b.log.all<WorkerSaid>()[0].message).request, RequestId(1));
}

TEST_F(ControlTest, AClosedStreamIsOpenedAgain) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  for (size_t life = 1; life <= 3; ++life) {
    ASSERT_TRUE(a.until([&] { return a.opened() == life; }));
    server->close(opened().back().stream, absl::AbortedError("test"));
    ASSERT_TRUE(turn_until([] {}, [&] { return a.closed().size() == life && closed().size() == life; }));
    EXPECT_TRUE(a.closed().back().was_open);
    EXPECT_EQ(a.closed().back().why.code(), absl::StatusCode::kAborted);
    EXPECT_EQ(closed().back().stream, opened().back().stream);
    EXPECT_FALSE(server->send(opened().back().stream, Pong{}));
  }
}

TEST_F(ControlTest, DisconnectEndsTheStreamWithoutAnEvent) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  a.client.disconnect(kWorker);
  ASSERT_TRUE(a.until([&] { return closed().size() == 1; }));
  EXPECT_FALSE(a.client.send(kWorker, Ping{1}));
  EXPECT_TRUE(a.closed().empty());
}

TEST_F(ControlTest, AnIdleStreamIsPinged) {
  start();
  Coordinator a("a");
  Instant now{};
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(turn_until([&] { a.client.tick(now); }, [&] { return a.opened() == 1; }));
  a.client.tick(now);
  now += timers::kHeartbeat - std::chrono::milliseconds(1);
  a.client.tick(now);  // too early
  for (uint64_t ping = 1; ping <= 3; ++ping) {
    now += timers::kHeartbeat;
    EXPECT_EQ(a.client.tick(now), now + timers::kHeartbeat);  // four turns a second, no more
    a.client.tick(now);                                       // once
  }
  ASSERT_TRUE(turn_until([] {}, [&] { return said().size() == 3; }));
  for (uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(said()[i].message == CoordinatorMessage(Ping{i + 1}));
}

TEST_F(ControlTest, ASilentWorkerIsPingedWhateverElseIsSent) {
  start();
  Coordinator a("a");
  Instant now{};
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(turn_until([&] { a.client.tick(now); }, [&] { return a.opened() == 1; }));
  const StreamId stream = opened()[0].stream;
  a.client.tick(now);
  size_t heard = 0;
  for (int i = 0; i < 2 * 10; ++i) {  // a message every 50 ms; the worker talks in the first second only
    now += Duration(timers::kHeartbeat) / 5;
    ASSERT_TRUE(a.client.send(kWorker, Release{RequestId(1)}));
    if (i < 10) {
      ASSERT_TRUE(server->send(stream, Pong{}));
      ASSERT_TRUE(turn_until([] {}, [&] { return a.log.count<WorkerSaid>() == heard + 1; }));
      ++heard;
    }
    a.client.tick(now);
  }
  ASSERT_TRUE(turn_until([] {}, [&] { return said().size() == 22; }));
  size_t pings = 0;
  for (const auto& one : said()) pings += std::holds_alternative<Ping>(one.message);
  EXPECT_EQ(pings, 2u);
}

TEST_F(ControlTest, AMessageOverTheLimitCostsTheStreamOnly) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  Submit huge = some_submit(1);
  huge.request.prompt.assign(4'000'000, 1 << 30);  // 5 bytes each
  (void)a.client.send(kWorker, huge);
  ASSERT_TRUE(a.until([&] { return a.opened() == 2; }));
  EXPECT_EQ(a.closed().size(), 1u);
  ASSERT_TRUE(a.client.send(kWorker, Release{RequestId(2)}));
  ASSERT_TRUE(turn_until([] {}, [&] { return said().size() == 1; }));
  EXPECT_TRUE(said()[0].message == CoordinatorMessage(Release{RequestId(2)}));
}

TEST_F(ControlTest, AFullQueueClosesTheStream) {
  start();
  Coordinator a("a", 1, QueueBounds{.messages = 8192, .bytes = 1000});
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  EXPECT_FALSE(a.client.send(kWorker, some_submit(1, 2000)));
  ASSERT_TRUE(turn_until([] {}, [&] { return a.closed().size() == 1; }));
  EXPECT_EQ(a.closed()[0].why.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ControlTest, AFullMailboxOfTheWorkerClosesTheStream) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  log.set_capacity(3);  // opened and two messages
  for (uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(a.client.send(kWorker, Release{RequestId(i)}));
  ASSERT_TRUE(turn_until([] {}, [&] { return a.closed().size() == 1; }));
  EXPECT_EQ(a.closed()[0].why.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ControlTest, AFullMailboxOfTheCoordinatorLosesNoClose) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  a.log.set_capacity(1);
  ASSERT_TRUE(server->send(opened()[0].stream, Pong{}));
  ASSERT_TRUE(a.until([&] { return closed().size() == 1; }));
  EXPECT_TRUE(a.closed().empty());
  a.log.set_capacity(100);
  ASSERT_TRUE(a.until([&] { return a.opened() == 2; }));
  ASSERT_EQ(a.closed().size(), 1u);
  EXPECT_TRUE(a.closed()[0].was_open);
}

TEST_F(ControlTest, ANewLifeOnTheSamePort) {
  start();
  Coordinator a("a");
  ASSERT_TRUE(a.connect(*server).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
  ControlServerOptions same_port;
  same_port.listen = absl::StrCat("127.0.0.1:", server->port());
  server.reset();
  ASSERT_TRUE(turn_until([] {}, [&] { return a.closed().size() == 1; }));
  start(some_worker("decode-0", 8), same_port);
  // Whoever still wants the old life is told that it is gone.
  ASSERT_TRUE(a.until([&] { return a.closed().back().why.code() == absl::StatusCode::kFailedPrecondition; }));
  a.client.disconnect(kWorker);
  const WorkerRef next{"decode-0", Incarnation(8)};
  ASSERT_TRUE(a.connect(*server, next).ok());
  ASSERT_TRUE(a.until([&] { return a.opened() == 2; }));
  EXPECT_TRUE(a.client.send(next, Ping{1}));
  EXPECT_FALSE(a.client.send(kWorker, Ping{1}));
}

TEST_F(ControlTest, ADeadAddressIsTriedAgainUntilSomebodyListens) {
  start();
  ControlServerOptions same_port;
  same_port.listen = absl::StrCat("127.0.0.1:", server->port());
  server.reset();
  Coordinator a("a");
  ASSERT_TRUE(a.client.connect(kWorker, same_port.listen).ok());
  ASSERT_TRUE(a.until([&] { return a.closed().size() == 3; }));
  EXPECT_EQ(a.closed()[2].why.code(), absl::StatusCode::kUnavailable);
  start(some_worker("decode-0", 7), same_port);
  ASSERT_TRUE(a.until([&] { return a.opened() == 1; }));
}

TEST_F(ControlTest, APortInUseIsAClearError) {
  start();
  ControlServerOptions same_port;
  same_port.listen = absl::StrCat("127.0.0.1:", server->port());
  const auto second = ControlServer::start(same_port, some_worker("decode-1", 1), log.sink());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr(same_port.listen + ": Address already in use"));
}

TEST_F(ControlTest, AnAddressThatIsNotOursIsAClearError) {
  for (const char* bad : {"127.0.0.1:99999999", "127.0.0.1:http?", "[::1:5000"}) {
    ControlServerOptions options;
    options.listen = bad;
    EXPECT_THAT(
        std::string(ControlServer::start(options, some_worker("w", 1), log.sink()).status().message()),
        HasSubstr(bad));
  }
}

TEST_F(ControlTest, OffLoopbackNeedsTlsOrTheFlag) {
  ControlServerOptions open;
  open.listen = "0.0.0.0:0";
  const auto refused = ControlServer::start(open, some_worker("decode-0", 7), log.sink());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  open.security.insecure_i_understand = true;
  EXPECT_TRUE(ControlServer::start(open, some_worker("decode-0", 7), log.sink()).ok());
  Coordinator a("a");
  EXPECT_EQ(a.client.connect(kWorker, "192.0.2.1:5000").code(), absl::StatusCode::kInvalidArgument);
}

TEST(Security, Loopback) {
  for (const char* yes : {"127.0.0.1:80", "127.8.9.1:80", "[::1]:80", "localhost:80"}) {
    EXPECT_TRUE(is_loopback(yes)) << yes;
  }
  for (const char* no : {"0.0.0.0:80", "[::]:80", "10.0.0.1:80", "127.evil.org:80", "localhost.evil.org:80",
                         "", ":80", "128.0.0.1:80", "[::ffff:10.0.0.1]:80"}) {
    EXPECT_FALSE(is_loopback(no)) << no;
  }
}

}  // namespace
}  // namespace baton::transport
