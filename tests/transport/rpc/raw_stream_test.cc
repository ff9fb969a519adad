// What a ControlServer does with a coordinator that does not keep to the protocol: the test speaks gRPC
// itself.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "tests/transport/rpc/event_log.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/control_server.h"
#include "wire.grpc.pb.h"

namespace baton::transport {
namespace {

using ::testing::HasSubstr;

class RawStream {
 public:
  explicit RawStream(int port)
      : stub_(wire::WorkerControl::NewStub(
            grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()))) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_->Control(&context_);
  }
  bool write(const wire::CoordinatorMessage& message) { return stream_->Write(message); }
  bool write(const CoordinatorMessage& message) {
    wire::CoordinatorMessage encoded;
    encode(message, encoded);
    return write(encoded);
  }
  bool read(wire::WorkerMessage& message) { return stream_->Read(&message); }
  bool read() {
    wire::WorkerMessage message;
    return read(message);
  }
  // Reads what is left, then the status.
  grpc::Status finish() {
    while (read()) {
    }
    return stream_->Finish();
  }

 private:
  std::unique_ptr<wire::WorkerControl::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<wire::CoordinatorMessage, wire::WorkerMessage>> stream_;
};

CoordinatorHello hello(const std::string& id = "a") {
  return {kProtocolVersion, id, 1, HashKey{}, Incarnation(7)};
}

class RawStreamTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ControlServerOptions options;
    options.max_streams = 3;
    options.queue.messages = 50;
    auto started = ControlServer::start(options, some_worker("decode-0", 7), log.sink(), [](const auto& h) {
      return h.coordinator_id == "unwanted" ? absl::PermissionDeniedError("not you") : absl::OkStatus();
    });
    ASSERT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
  }
  void expect_refused(RawStream& stream, grpc::StatusCode code, const std::string& text) {
    const grpc::Status status = stream.finish();
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(text));
  }

  EventLog<ControlServerEvent> log;
  std::unique_ptr<ControlServer> server;
};

TEST_F(RawStreamTest, AnotherProtocolVersion) {
  RawStream stream(server->port());
  CoordinatorHello other = hello();
  other.protocol_version = kProtocolVersion + 1;
  stream.write(CoordinatorMessage(other));
  expect_refused(stream, grpc::StatusCode::FAILED_PRECONDITION, "protocol version");
}

TEST_F(RawStreamTest, TheOwnersVeto) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello("unwanted")));
  expect_refused(stream, grpc::StatusCode::PERMISSION_DENIED, "not you");
  EXPECT_EQ(log.count<CoordinatorOpened>(), 0u);
}

TEST_F(RawStreamTest, SomethingElseThanAHelloFirst) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(some_submit(1)));
  expect_refused(stream, grpc::StatusCode::INVALID_ARGUMENT, "hello first");
  EXPECT_EQ(log.count<CoordinatorSaid>(), 0u);
}

TEST_F(RawStreamTest, ASecondHello) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(stream.read());
  stream.write(CoordinatorMessage(hello()));
  expect_refused(stream, grpc::StatusCode::INVALID_ARGUMENT, "one hello");
}

TEST_F(RawStreamTest, AnEmptyMessage) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(stream.read());
  stream.write(wire::CoordinatorMessage());
  expect_refused(stream, grpc::StatusCode::INVALID_ARGUMENT, "kind");
  ASSERT_TRUE(turn_until([] {}, [&] { return log.count<CoordinatorClosed>() == 1; }));
}

// Of a request: that one is refused, with its field, and the stream goes on.
TEST_F(RawStreamTest, ARequestWithAFieldOutOfRange) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(stream.read());
  Submit submit = some_submit(1);
  submit.request.sampling.top_p = 7;
  stream.write(CoordinatorMessage(submit));
  wire::WorkerMessage answer;
  ASSERT_TRUE(stream.read(answer));
  const auto decoded = decode(answer);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const auto& reply = std::get<SubmitReply>(*decoded);
  EXPECT_EQ(reply.request, submit.request.id);
  EXPECT_FALSE(reply.accepted);
  EXPECT_EQ(reply.reason, RefuseReason::kInvalid);
  EXPECT_THAT(reply.detail, HasSubstr("sampling.top_p"));
  stream.write(CoordinatorMessage(some_submit(2)));
  ASSERT_TRUE(turn_until([] {}, [&] { return log.count<CoordinatorSaid>() == 1; }));
  EXPECT_EQ(log.count<CoordinatorClosed>(), 0u);
}

// Nobody is named whom an answer could reach.
TEST_F(RawStreamTest, AFieldOutOfRange) {
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(stream.read());
  Submit submit = some_submit(1);
  submit.request.id = RequestId();
  submit.request.sampling.top_p = 7;
  stream.write(CoordinatorMessage(submit));
  expect_refused(stream, grpc::StatusCode::INVALID_ARGUMENT, "submit.request.sampling.top_p");
}

TEST_F(RawStreamTest, AnOversizedMessage) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "gRPC is not instrumented: each word of the 16 MiB becomes a (suppressed) report, which "
                  "takes minutes";
#endif
  RawStream stream(server->port());
  stream.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(stream.read());
  wire::CoordinatorMessage huge;
  huge.mutable_submit()->mutable_request()->set_tenant_salt(std::string(kMaxMessageBytes + 1, 'x'));
  stream.write(huge);
  EXPECT_FALSE(stream.finish().ok());
  ASSERT_TRUE(turn_until([] {}, [&] { return log.count<CoordinatorClosed>() == 1; }));
  EXPECT_EQ(log.count<CoordinatorSaid>(), 0u);
}

TEST_F(RawStreamTest, AStreamThatNeverGreetsIsClosed) {
  RawStream silent(server->port());
  Instant now{};
  std::thread reader([&] { expect_refused(silent, grpc::StatusCode::DEADLINE_EXCEEDED, "hello"); });
  RawStream good(server->port());
  good.write(CoordinatorMessage(hello()));
  ASSERT_TRUE(good.read());
  // The silent one may reach the server late: tick on until it was there for long enough.
  std::atomic<bool> refused = false;
  std::thread waiter([&] {
    reader.join();
    refused = true;
  });
  EXPECT_TRUE(turn_until([&] { server->tick(now += timers::kHeartbeat); }, [&] { return refused.load(); }));
  waiter.join();
  EXPECT_EQ(log.count<CoordinatorClosed>(), 0u);  // the good one, and nobody heard of the silent one
  EXPECT_TRUE(server->send(log.all<CoordinatorOpened>()[0].stream, Pong{}));
}

TEST_F(RawStreamTest, ACoordinatorThatDoesNotReadLosesItsStreamAndNobodyElseDoes) {
  RawStream slow(server->port()), good(server->port());
  slow.write(CoordinatorMessage(hello("slow")));
  good.write(CoordinatorMessage(hello("good")));
  ASSERT_TRUE(turn_until([] {}, [&] { return log.count<CoordinatorOpened>() == 2; }));
  StreamId slow_stream, good_stream;
  for (const auto& one : log.all<CoordinatorOpened>()) {
    (one.hello.coordinator_id == "slow" ? slow_stream : good_stream) = one.stream;
  }
  StepReport report;
  report.blocks_stored.assign(20'000, BlockHash{1, 2});  // 320 KB
  int sent = 0;
  while (server->send(slow_stream, report) && sent < 10'000) ++sent;
  EXPECT_LT(sent, 10'000);
  ASSERT_TRUE(turn_until([] {}, [&] { return log.count<CoordinatorClosed>() == 1; }));
  EXPECT_EQ(log.all<CoordinatorClosed>()[0].stream, slow_stream);
  EXPECT_EQ(log.all<CoordinatorClosed>()[0].why.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(slow.finish().ok());
  ASSERT_TRUE(good.read());  // the hello
  ASSERT_TRUE(server->send(good_stream, Pong{}));
  EXPECT_TRUE(good.read());
}

TEST_F(RawStreamTest, TooManyStreams) {
  std::vector<std::unique_ptr<RawStream>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(std::make_unique<RawStream>(server->port()));
    streams.back()->write(CoordinatorMessage(hello(absl::StrCat("c", i))));
    ASSERT_TRUE(streams.back()->read());
  }
  RawStream fourth(server->port());
  fourth.write(CoordinatorMessage(hello("d")));
  expect_refused(fourth, grpc::StatusCode::RESOURCE_EXHAUSTED, "too many");
}

}  // namespace
}  // namespace baton::transport
