#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/messages/life_over.h"
#include "transport/rpc/membership_client.h"
#include "transport/rpc/membership_server.h"
#include "wire.grpc.pb.h"

namespace baton::transport {
namespace {

const JoinAccepted kAccepted{42, timers::kLeaseTtl, "coordinator", 5, HashKey{11, 12}};

class MembershipRpcTest : public ::testing::Test {
 protected:
  void start(int port = 0) {
    MembershipServerOptions options;
    options.listen = absl::StrCat("127.0.0.1:", port);
    auto started = MembershipServer::start(options, calls.sink());
    ASSERT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    port_ = server->port();
  }
  void join_as(const WorkerDescription& worker) {
    auto created = MembershipClient::create(absl::StrCat("127.0.0.1:", port_), {}, worker,
                                            [this](auto event) { (void)events.sink()(std::move(event)); });
    ASSERT_TRUE(created.ok()) << created.status();
    client = *std::move(created);
  }
  bool until(const std::function<bool()>& done) {
    return turn_until([this] { client->tick(now); }, done);
  }
  // Waits for the next call of kind T and hands it over.
  template <class T>
  T next_call() {
    EXPECT_TRUE(until([&] { return calls.count<T>() == 1; }));
    const auto found = calls.all<T>();
    calls.clear();
    return found.empty() ? T{} : found[0];
  }
  void join() {
    start();
    join_as(some_worker("decode-0", 7));
    next_call<JoinCall>().reply(kAccepted);
    ASSERT_TRUE(until([&] { return events.count<Joined>() == 1; }));
  }

  EventLog<MembershipCall> calls;
  EventLog<MembershipEvent> events;
  std::unique_ptr<MembershipServer> server;
  std::unique_ptr<MembershipClient> client;
  int port_ = 0;
  Instant now{};
};

TEST_F(MembershipRpcTest, JoinRenewLeave) {
  start();
  const WorkerDescription worker = some_worker("decode-0", 7);
  join_as(worker);
  const JoinCall call = next_call<JoinCall>();
  EXPECT_TRUE(call.worker == worker);
  EXPECT_FALSE(client->joined());
  call.reply(kAccepted);
  call.reply(absl::InternalError("a second reply does nothing"));
  ASSERT_TRUE(until([&] { return client->joined(); }));
  EXPECT_TRUE(events.all<Joined>()[0].accepted == kAccepted);

  for (int i = 0; i < 5; ++i) {  // for longer than one TTL
    EXPECT_EQ(calls.count<RenewCall>(), 0u);
    now += timers::kLeaseRenew;
    const RenewCall renew = next_call<RenewCall>();
    EXPECT_EQ(renew.lease, 42u);
    EXPECT_TRUE(renew.worker == worker.ref);
    renew.reply(absl::OkStatus());
    // The reply is in when the next renewal is planned a full period ahead.
    ASSERT_TRUE(until([&] { return client->tick(now) == now + Duration(timers::kLeaseRenew); }));
  }
  EXPECT_TRUE(client->joined());
  client->leave();
  EXPECT_FALSE(client->joined());
  ASSERT_TRUE(turn_until([] {}, [&] { return calls.count<LeaveCall>() == 1; }));
  EXPECT_EQ(calls.all<LeaveCall>()[0].lease, 42u);
  calls.all<LeaveCall>()[0].reply(absl::OkStatus());
  EXPECT_EQ(client->tick(now), kNever);
}

TEST_F(MembershipRpcTest, ACoordinatorThatComesLaterIsFound) {
  start();
  server.reset();
  join_as(some_worker("decode-0", 7));
  ASSERT_TRUE(turn_until([&] { client->tick(now += std::chrono::milliseconds(100)); },
                         [&] { return events.count<JoinFailed>() == 1; }));
  EXPECT_EQ(events.all<JoinFailed>()[0].why.code(), absl::StatusCode::kUnavailable);
  start(port_);
  ASSERT_TRUE(turn_until([&] { client->tick(now += std::chrono::milliseconds(100)); },
                         [&] { return calls.count<JoinCall>() == 1; }));
  EXPECT_EQ(events.count<JoinFailed>(), 1u);  // told once, not at each attempt
}

TEST_F(MembershipRpcTest, AFencedWorkerStopsAsking) {
  start();
  join_as(some_worker("decode-0", 6));
  next_call<JoinCall>().reply(life_over("incarnation i7 is known", Incarnation(7)));
  ASSERT_TRUE(until([&] { return events.count<Fenced>() == 1; }));
  EXPECT_EQ(youngest_life_over(events.all<Fenced>()[0].why), Incarnation(7));
  EXPECT_EQ(client->tick(now += std::chrono::hours(1)), kNever);
}

TEST_F(MembershipRpcTest, ARestartedCoordinatorIsJoinedAgain) {
  join();
  server.reset();
  start(port_);
  bool renewed = false;
  // While nobody listens a renewal fails and is tried again; the new coordinator does not know the lease.
  ASSERT_TRUE(turn_until(
      [&] {
        client->tick(now += std::chrono::milliseconds(50));
        for (const auto& renew : calls.all<RenewCall>()) renew.reply(absl::NotFoundError("no such lease"));
        renewed = renewed || calls.count<RenewCall>() > 0;
      },
      [&] { return calls.count<JoinCall>() == 1; }));
  EXPECT_TRUE(renewed || events.count<LeaseLost>() == 1);
  calls.all<JoinCall>()[0].reply(kAccepted);
  ASSERT_TRUE(until([&] { return events.count<Joined>() == 2; }));
}

TEST_F(MembershipRpcTest, AFencedLeaseEndsTheMembership) {
  join();
  now += timers::kLeaseRenew;
  next_call<RenewCall>().reply(absl::FailedPreconditionError("declared dead"));
  ASSERT_TRUE(until([&] { return events.count<Fenced>() == 1; }));
  EXPECT_FALSE(client->joined());
}

TEST_F(MembershipRpcTest, ALeaseEndsBeforeTheCoordinatorThinksSo) {
  join();
  now += timers::kLeaseTtl - timers::kSelfFenceMargin - std::chrono::milliseconds(1);
  client->tick(now);
  EXPECT_TRUE(client->joined());
  client->tick(now += std::chrono::milliseconds(1));
  EXPECT_FALSE(client->joined());
  EXPECT_EQ(events.count<LeaseLost>(), 1u);
}

TEST_F(MembershipRpcTest, ADroppedCallIsAnsweredUnavailable) {
  start();
  join_as(some_worker("decode-0", 7));
  (void)next_call<JoinCall>();  // and nobody replies
  ASSERT_TRUE(until([&] { return events.count<JoinFailed>() == 1; }));
  EXPECT_EQ(events.all<JoinFailed>()[0].why.code(), absl::StatusCode::kUnavailable);
}

TEST_F(MembershipRpcTest, AFullMailboxIsAnswered) {
  start();
  calls.set_capacity(0);
  join_as(some_worker("decode-0", 7));
  ASSERT_TRUE(until([&] { return events.count<JoinFailed>() == 1; }));
  EXPECT_EQ(events.all<JoinFailed>()[0].why.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(MembershipRpcTest, TheServerEndsWithACallOpen) {
  start();
  join_as(some_worker("decode-0", 7));
  ASSERT_TRUE(until([&] { return calls.count<JoinCall>() == 1; }));
  const JoinCall held = calls.all<JoinCall>()[0];
  server.reset();  // must not wait for the reply
  held.reply(kAccepted);
  ASSERT_TRUE(until([&] { return events.count<JoinFailed>() == 1; }));
}

TEST_F(MembershipRpcTest, BadRequestsAreRefused) {
  start();
  auto stub = wire::Membership::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials()));
  const auto status_of = [&](const wire::JoinRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    wire::JoinReply reply;
    return stub->Join(&context, request, &reply);
  };
  wire::JoinRequest request;
  request.set_protocol_version(99);
  EXPECT_EQ(status_of(request).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  request.set_protocol_version(kProtocolVersion);
  EXPECT_EQ(status_of(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(calls.count<JoinCall>(), 0u);
}

}  // namespace
}  // namespace baton::transport
