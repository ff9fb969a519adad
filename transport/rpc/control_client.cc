#include "transport/rpc/control_client.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/timers.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/grpc_edge.h"
#include "wire.grpc.pb.h"

namespace baton::transport {

namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstRetry = 50ms;
constexpr Duration kLastRetry = 1s;
constexpr Duration kShutdown = 5s;

}  // namespace

// One RPC. Kept by itself until OnDone, then handed to the core, which lets the owner's thread delete it: the
// last channel of a process must not die on a gRPC thread (gRPC 1.51 then joins that thread from itself). A
// hold keeps the call alive until close(), so that writes may be started from any thread.
class ControlClient::Stream final
    : public grpc::ClientBidiReactor<wire::CoordinatorMessage, wire::WorkerMessage> {
 public:
  Stream(std::shared_ptr<Core> core, WorkerRef worker, QueueBounds bounds)
      : core_(std::move(core)), worker_(std::move(worker)), queue_(bounds) {}

  void begin(std::shared_ptr<Stream> self, std::shared_ptr<grpc::Channel> channel,
             const CoordinatorHello& hello);
  bool send(wire::CoordinatorMessage message);
  void close(const absl::Status& why);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  const WorkerRef& worker() const { return worker_; }

 private:
  absl::Status on_hello(const WorkerHello& hello);
  void let_go_locked();

  const std::shared_ptr<Core> core_;
  const WorkerRef worker_;
  std::shared_ptr<Stream> self_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<wire::WorkerControl::Stub> stub_;
  grpc::ClientContext context_;
  wire::WorkerMessage incoming_;
  bool greeted_ = false;  // gRPC's reading thread only

  std::mutex mutex_;
  WriteQueue<wire::CoordinatorMessage> queue_;
  std::optional<absl::Status> closing_;
  bool held_ = true;
};

// The connections; outlives the client while gRPC still holds a stream.
class ControlClient::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(ControlClientOptions options, Sink sink) : options_(std::move(options)), sink_(std::move(sink)) {}

  absl::Status connect(const WorkerRef& worker, const std::string& address);
  void disconnect(const WorkerRef& worker);
  bool send(const WorkerRef& worker, const CoordinatorMessage& message);
  Instant tick(Instant now);
  void stop();

  // ---- from streams, on gRPC threads. A stream that is not its connection's current one is ignored.
  bool opened(const Stream& stream, WorkerHello hello);
  bool said(const Stream& stream, WorkerMessage message);
  void done(std::shared_ptr<Stream> stream, absl::Status why);

 private:
  enum class State { kWaiting, kConnecting, kGivenUp, kOpen };
  struct Connection {
    std::string address;
    State state = State::kWaiting;
    std::shared_ptr<Stream> stream;
    Duration backoff = kFirstRetry;
    std::optional<Instant> next_attempt;  // none: as soon as tick() is called
    Instant attempt_began{};
    Instant last_sent{};
    Instant last_heard{};
    Instant last_ping{};
    bool sent_since_tick = false;
    bool heard_since_tick = false;
    uint64_t ping = 0;
    std::optional<WorkerStreamClosed> unreported;  // the sink was full
  };
  Connection* current(const Stream& stream);
  void attempt(const WorkerRef& worker, Connection& connection, Instant now);
  // Returns when to look at it again.
  Instant tend(const WorkerRef& worker, Connection& connection, Instant now);
  Instant tend_open(Connection& connection, Instant now);
  void report_closed(Connection& connection, WorkerStreamClosed event);

  const ControlClientOptions options_;
  const Sink sink_;
  std::mutex mutex_;
  std::condition_variable all_done_;
  bool stopped_ = false;
  int streams_ = 0;                             // begun and not done
  std::vector<std::shared_ptr<Stream>> ended_;  // to be deleted outside of the lock, on the owner's thread
  std::map<WorkerRef, Connection> connections_;
};

// ---- Stream

void ControlClient::Stream::begin(std::shared_ptr<Stream> self, std::shared_ptr<grpc::Channel> channel,
                                  const CoordinatorHello& hello) {
  self_ = std::move(self);
  channel_ = std::move(channel);
  stub_ = wire::WorkerControl::NewStub(channel_);
  stub_->async()->Control(&context_, this);
  wire::CoordinatorMessage first;
  encode(CoordinatorMessage(hello), first);
  std::lock_guard lock(mutex_);
  AddHold();
  (void)queue_.push(std::move(first));
  StartWrite(&queue_.front());
  StartRead(&incoming_);
  StartCall();
}

bool ControlClient::Stream::send(wire::CoordinatorMessage message) {
  using Push = WriteQueue<wire::CoordinatorMessage>::Push;
  {
    std::lock_guard lock(mutex_);
    if (closing_ || !held_) return false;
    switch (queue_.push(std::move(message))) {
      case Push::kStartWrite:
        StartWrite(&queue_.front());
        return true;
      case Push::kQueued:
        return true;
      case Push::kOverflow:
        break;
    }
  }
  close(absl::ResourceExhaustedError("the worker does not read its control stream"));
  return false;
}

void ControlClient::Stream::close(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (!closing_) {
    closing_ = why;
    context_.TryCancel();
  }
  let_go_locked();
}

void ControlClient::Stream::let_go_locked() {
  if (!held_) return;
  held_ = false;
  RemoveHold();
}

absl::Status ControlClient::Stream::on_hello(const WorkerHello& hello) {
  if (hello.protocol_version != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("protocol version: coordinator has ", kProtocolVersion,
                                                      ", worker has ", hello.protocol_version));
  }
  if (hello.worker.ref != worker_) {
    return absl::FailedPreconditionError(
        absl::StrCat("want worker ", worker_.name, " ", to_string(worker_.incarnation), ", ",
                     hello.worker.ref.name, " ", to_string(hello.worker.ref.incarnation), " answered"));
  }
  return absl::OkStatus();
}

void ControlClient::Stream::OnReadDone(bool ok) {
  if (!ok) {  // OnDone brings the status
    std::lock_guard lock(mutex_);
    return let_go_locked();
  }
  absl::StatusOr<WorkerMessage> message = decode(incoming_);
  incoming_.Clear();
  if (!message.ok()) return close(message.status());
  auto* hello = std::get_if<WorkerHello>(&*message);
  if (greeted_ == (hello != nullptr)) {
    return close(absl::InvalidArgumentError(greeted_ ? "want one hello, got another" : "want a hello first"));
  }
  if (hello) {
    if (absl::Status status = on_hello(*hello); !status.ok()) return close(status);
    greeted_ = true;
  }
  if (hello ? !core_->opened(*this, std::move(*hello)) : !core_->said(*this, *std::move(message))) {
    return close(absl::ResourceExhaustedError("the coordinator cannot take more messages"));
  }
  StartRead(&incoming_);
}

void ControlClient::Stream::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  const bool more = queue_.pop();
  if (ok && more && !closing_ && held_) StartWrite(&queue_.front());
}

void ControlClient::Stream::OnDone(const grpc::Status& status) {
  absl::Status why = to_absl(status);
  {
    std::lock_guard lock(mutex_);
    if (closing_) why = *closing_;  // says more than the "cancelled" that it led to
  }
  if (why.ok()) why = absl::UnavailableError("the worker closed the stream");
  const std::shared_ptr<Core> core = core_;  // this stream may be gone when done() returns
  core->done(std::move(self_), std::move(why));
}

// ---- Core

absl::Status ControlClient::Core::connect(const WorkerRef& worker, const std::string& address) {
  RETURN_IF_ERROR(check_address(address, options_.security));
  std::lock_guard lock(mutex_);
  Connection connection;
  connection.address = address;
  if (connections_.emplace(worker, std::move(connection)).second) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(worker.name, ": connected already"));
}

void ControlClient::Core::disconnect(const WorkerRef& worker) {
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto it = connections_.find(worker);
    if (it == connections_.end()) return;
    stream = std::move(it->second.stream);
    connections_.erase(it);
  }
  if (stream) stream->close(absl::CancelledError("disconnected"));
}

bool ControlClient::Core::send(const WorkerRef& worker, const CoordinatorMessage& message) {
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard lock(mutex_);
    const auto it = connections_.find(worker);
    if (it == connections_.end() || it->second.state != State::kOpen) return false;
    it->second.sent_since_tick = true;
    stream = it->second.stream;
  }
  wire::CoordinatorMessage encoded;
  encode(message, encoded);
  return stream->send(std::move(encoded));
}

Instant ControlClient::Core::tick(Instant now) {
  std::vector<std::shared_ptr<Stream>> ended;
  std::lock_guard lock(mutex_);
  ended.swap(ended_);
  Instant next = kNever;
  for (auto& [worker, connection] : connections_) next = std::min(next, tend(worker, connection, now));
  return next;
}

Instant ControlClient::Core::tend(const WorkerRef& worker, Connection& connection, Instant now) {
  if (connection.unreported) {
    if (!sink_(*connection.unreported)) return now + kFirstRetry;
    connection.unreported.reset();
  }
  switch (connection.state) {
    case State::kWaiting:
      // The first attempt comes with this tick, later ones after 50 ms (a tick), 100, 200 ...
      if (!connection.next_attempt) connection.next_attempt = now + connection.backoff - kFirstRetry;
      if (now >= *connection.next_attempt) attempt(worker, connection, now);
      return connection.next_attempt.value_or(now + kFirstRetry);
    case State::kConnecting:
      if (now - connection.attempt_began >= timers::kDispatchAck) {
        connection.state = State::kGivenUp;  // an answer that comes now does not open what is being closed
        connection.stream->close(absl::DeadlineExceededError("the worker does not answer"));
      }
      return now + kFirstRetry;
    case State::kGivenUp:
      return now + kFirstRetry;
    case State::kOpen:
      return tend_open(connection, now);
  }
  return now;
}

// Traffic is only known to be younger than the last tick: after some, half a heartbeat later is soon enough.
Instant ControlClient::Core::tend_open(Connection& connection, Instant now) {
  const bool sent = std::exchange(connection.sent_since_tick, false);
  const bool heard = std::exchange(connection.heard_since_tick, false);
  if (sent) connection.last_sent = now;
  if (heard) connection.last_heard = now;
  const Instant quiet_since = std::min(connection.last_sent, connection.last_heard);
  const Instant due = std::max(quiet_since, connection.last_ping) + timers::kHeartbeat;
  if (now < due) return sent && heard ? now + Duration(timers::kHeartbeat) / 2 : due;
  connection.last_ping = connection.last_sent = now;
  wire::CoordinatorMessage ping;
  encode(CoordinatorMessage(Ping{++connection.ping}), ping);
  connection.stream->send(std::move(ping));
  return now + timers::kHeartbeat;
}

void ControlClient::Core::attempt(const WorkerRef& worker, Connection& connection, Instant now) {
  connection.next_attempt.reset();
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel =
      make_channel(connection.address, options_.security, ChannelLife::kConnection);
  if (!channel.ok()) {
    connection.backoff = std::min(2 * connection.backoff, kLastRetry);
    return report_closed(connection, {worker, channel.status(), false});
  }
  connection.state = State::kConnecting;
  connection.attempt_began = now;
  connection.stream = std::make_shared<Stream>(shared_from_this(), worker, options_.queue);
  ++streams_;
  const CoordinatorHello hello{kProtocolVersion, options_.coordinator_id, options_.term, options_.hash_key,
                               worker.incarnation};
  connection.stream->begin(connection.stream, *std::move(channel), hello);
}

ControlClient::Core::Connection* ControlClient::Core::current(const Stream& stream) {
  if (stopped_) return nullptr;
  const auto it = connections_.find(stream.worker());
  return it == connections_.end() || it->second.stream.get() != &stream ? nullptr : &it->second;
}

bool ControlClient::Core::opened(const Stream& stream, WorkerHello hello) {
  std::lock_guard lock(mutex_);
  Connection* connection = current(stream);
  if (!connection || connection->state != State::kConnecting) return false;
  if (!sink_(WorkerStreamOpened{std::move(hello)})) return false;
  connection->state = State::kOpen;
  connection->backoff = kFirstRetry;
  connection->sent_since_tick = connection->heard_since_tick = true;
  return true;
}

bool ControlClient::Core::said(const Stream& stream, WorkerMessage message) {
  std::lock_guard lock(mutex_);
  Connection* connection = current(stream);
  if (!connection) return false;
  connection->heard_since_tick = true;
  return sink_(WorkerSaid{stream.worker(), std::move(message)});
}

void ControlClient::Core::done(std::shared_ptr<Stream> stream, absl::Status why) {
  std::lock_guard lock(mutex_);
  if (Connection* connection = current(*stream)) {
    const bool was_open = connection->state == State::kOpen;
    connection->state = State::kWaiting;
    connection->stream.reset();
    if (!was_open) connection->backoff = std::min(2 * connection->backoff, kLastRetry);
    report_closed(*connection, {stream->worker(), std::move(why), was_open});
  }
  ended_.push_back(std::move(stream));
  --streams_;
  all_done_.notify_all();
}

void ControlClient::Core::report_closed(Connection& connection, WorkerStreamClosed event) {
  if (!sink_(event)) connection.unreported = std::move(event);
}

void ControlClient::Core::stop() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    for (auto& [worker, connection] : connections_) {
      if (connection.stream) streams.push_back(std::move(connection.stream));
    }
    connections_.clear();
  }
  for (const auto& stream : streams) stream->close(absl::CancelledError("the coordinator is shutting down"));
  {
    std::unique_lock lock(mutex_);
    // A cancelled call ends at once; gRPC not doing so is its bug, not a reason to hang.
    (void)all_done_.wait_for(lock, kShutdown, [&] { return streams_ == 0; });
    for (auto& stream : ended_) streams.push_back(std::move(stream));
    ended_.clear();
  }
}

// ---- ControlClient

ControlClient::ControlClient(ControlClientOptions options, Sink sink)
    : core_(std::make_shared<Core>(std::move(options), std::move(sink))) {}
ControlClient::~ControlClient() { core_->stop(); }

absl::Status ControlClient::connect(const WorkerRef& worker, const std::string& control_address) {
  return core_->connect(worker, control_address);
}
void ControlClient::disconnect(const WorkerRef& worker) { core_->disconnect(worker); }
bool ControlClient::send(const WorkerRef& worker, const CoordinatorMessage& message) {
  return core_->send(worker, message);
}
Instant ControlClient::tick(Instant now) { return core_->tick(now); }

}  // namespace baton::transport
