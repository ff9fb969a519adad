#include "transport/rpc/control_server.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/grpc_edge.h"
#include "transport/rpc/report_merge.h"
#include "wire.grpc.pb.h"

namespace baton::transport {

namespace {

// Coordinators whose highest term is remembered. More only come when ids are made anew for each life.
constexpr size_t kMaxCoordinators = 4096;

}  // namespace

// One RPC. Deleted by its last owner: the registry, or gRPC until OnDone.
class ControlServer::Stream final
    : public grpc::ServerBidiReactor<wire::CoordinatorMessage, wire::WorkerMessage> {
 public:
  Stream(std::shared_ptr<Core> core, grpc::CallbackServerContext* context, QueueBounds bounds)
      : core_(std::move(core)), context_(context), queue_(bounds) {}

  // `self` is kept until OnDone. A stream that is refused is never read.
  void begin(std::shared_ptr<Stream> self, const absl::Status& accepted) {
    self_ = std::move(self);
    if (!accepted.ok()) return close(accepted);
    StartRead(&incoming_);
  }
  bool send(wire::WorkerMessage message);
  // The message that is being written goes out first, then `why`, unless it is stuck.
  void close(const absl::Status& why);
  // A closed stream whose last write does not end is cancelled at the second tick.
  void tick();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { close(absl::CancelledError("the coordinator's stream broke")); }
  void OnDone() override;

  // Guarded by the core's lock.
  StreamId id;
  std::string coordinator;               // empty until the hello was accepted
  std::optional<Instant> waiting_since;  // for a hello

 private:
  void finish_locked();
  bool refuse_submit(const absl::Status& why);
  bool closing() {
    std::lock_guard lock(mutex_);
    return closing_.has_value();
  }

  const std::shared_ptr<Core> core_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<Stream> self_;
  wire::CoordinatorMessage incoming_;
  bool open_ = false;  // hello accepted; read by gRPC's reading thread only

  std::mutex mutex_;
  WriteQueue<wire::WorkerMessage> queue_;
  std::optional<absl::Status> closing_;
  bool finished_ = false;
  int ticks_closing_ = 0;
};

// What streams share; outlives the server while gRPC still holds a stream.
class ControlServer::Core {
 public:
  Core(ControlServerOptions options, WorkerDescription worker, Sink sink, Admit admit)
      : options_(std::move(options)),
        worker_(std::move(worker)),
        sink_(std::move(sink)),
        admit_(std::move(admit)) {}

  absl::Status add(const std::shared_ptr<Stream>& stream) {
    std::lock_guard lock(mutex_);
    if (stopped_ || port_ == 0) return absl::UnavailableError("the worker is starting or shutting down");
    if (streams_.size() >= static_cast<size_t>(options_.max_streams)) {
      return absl::ResourceExhaustedError("the worker has too many control streams");
    }
    stream->id = StreamId(++last_id_);
    streams_[stream->id] = stream;
    return absl::OkStatus();
  }

  // Answers the hello inside, so that nothing overtakes it.
  absl::Status admit(Stream& stream, const CoordinatorHello& hello);

  absl::Status say(Stream& stream, CoordinatorMessage message) {
    std::lock_guard lock(mutex_);
    if (stopped_) return absl::UnavailableError("the worker is shutting down");
    if (coordinators_[stream.coordinator].current != stream.id)
      return absl::AbortedError("another stream of this coordinator took its place");
    if (sink_(CoordinatorSaid{stream.id, std::move(message)})) return absl::OkStatus();
    return absl::ResourceExhaustedError("the worker cannot take more messages");
  }
  void remove(Stream& stream, absl::Status why) {
    std::lock_guard lock(mutex_);
    streams_.erase(stream.id);
    if (stream.coordinator.empty()) return;
    Coordinator& coordinator = coordinators_[stream.coordinator];
    if (coordinator.current == stream.id) coordinator.current = StreamId();
    if (!stopped_) (void)sink_(CoordinatorClosed{stream.id, std::move(why)});
  }

  std::shared_ptr<Stream> find(StreamId id) {
    std::lock_guard lock(mutex_);
    const auto it = streams_.find(id);
    return it == streams_.end() ? nullptr : it->second;
  }
  void tick(Instant now);
  // No event is posted after this.
  void stop() {
    std::map<StreamId, std::shared_ptr<Stream>> streams;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      streams = streams_;
    }
    for (auto& [id, stream] : streams) stream->close(absl::UnavailableError("the worker is shutting down"));
  }

  const ControlServerOptions& options() const { return options_; }
  const WorkerDescription& worker() const { return worker_; }
  // Streams are accepted from here on.
  void set_port(int port) {
    std::lock_guard lock(mutex_);
    port_ = port;
    if (!worker_.control_address.empty()) return;
    const std::string& listen = options_.listen;
    std::string host = options_.advertise.empty() ? listen.substr(0, listen.rfind(':')) : options_.advertise;
    if (host.find(':') != host.npos && host[0] != '[') host = absl::StrCat("[", host, "]");
    worker_.control_address = absl::StrCat(host, ":", port);
  }
  int port() const { return port_; }

 private:
  struct Coordinator {
    uint64_t term = 0;
    StreamId current;   // 0: none
    uint64_t used = 0;  // order of the last hello
  };
  absl::Status check(const CoordinatorHello& hello);
  void forget_oldest();

  const ControlServerOptions options_;
  WorkerDescription worker_;
  const Sink sink_;
  const Admit admit_;
  int port_ = 0;

  std::mutex mutex_;
  bool stopped_ = false;
  uint64_t last_id_ = 0;
  std::map<StreamId, std::shared_ptr<Stream>> streams_;
  std::map<std::string, Coordinator> coordinators_;
};

class ControlServer::Service final : public wire::WorkerControl::CallbackService {
 public:
  explicit Service(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  ~Service() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + timers::kHeartbeat);
  }
  absl::Status start() {
    ASSIGN_OR_RETURN(ListeningServer listening,
                     listen(core_->options().listen, core_->options().security, *this));
    core_->set_port(listening.port);
    server_ = std::move(listening.server);
    return absl::OkStatus();
  }

  grpc::ServerBidiReactor<wire::CoordinatorMessage, wire::WorkerMessage>* Control(
      grpc::CallbackServerContext* context) override {
    const auto stream = std::make_shared<Stream>(core_, context, core_->options().queue);
    absl::Status status = absl::PermissionDeniedError("the certificate is not a coordinator's");
    if (peer_allowed(context->auth_context().get(), core_->options().security)) status = core_->add(stream);
    stream->begin(stream, status);
    return stream.get();
  }

 private:
  const std::shared_ptr<Core> core_;
  std::unique_ptr<grpc::Server> server_;
};

// ---- Stream

bool ControlServer::Stream::send(wire::WorkerMessage message) {
  using Push = WriteQueue<wire::WorkerMessage>::Push;
  std::lock_guard lock(mutex_);
  if (closing_) return false;
  if (queue_.merge_into_last(message, merge_reports)) return true;
  const Push push = queue_.push(std::move(message));
  if (push == Push::kStartWrite) StartWrite(&queue_.front());
  if (push != Push::kOverflow) return true;
  closing_ = absl::ResourceExhaustedError("the coordinator does not read its control stream");
  queue_.writing() ? context_->TryCancel() : finish_locked();
  return false;
}

void ControlServer::Stream::close(const absl::Status& why) {
  std::lock_guard lock(mutex_);
  if (closing_) return;
  closing_ = why;
  if (!queue_.writing()) finish_locked();  // else in OnWriteDone
}

void ControlServer::Stream::tick() {
  std::lock_guard lock(mutex_);
  if (closing_ && !finished_ && ++ticks_closing_ >= 2) context_->TryCancel();
}

void ControlServer::Stream::finish_locked() {
  if (finished_) return;
  finished_ = true;
  Finish(to_grpc(*closing_));
}

void ControlServer::Stream::OnReadDone(bool ok) {
  if (!ok) return close(absl::CancelledError("the coordinator closed its stream"));
  if (closing()) return;
  absl::StatusOr<CoordinatorMessage> message = decode(incoming_);
  if (!message.ok()) {
    if (!refuse_submit(message.status())) return close(message.status());
    incoming_.Clear();
    return StartRead(&incoming_);
  }
  incoming_.Clear();
  const auto* hello = std::get_if<CoordinatorHello>(&*message);
  if (open_ == (hello != nullptr)) {
    return close(absl::InvalidArgumentError(open_ ? "want one hello, got another" : "want a hello first"));
  }
  if (hello) {
    if (absl::Status status = core_->admit(*this, *hello); !status.ok()) return close(status);
    open_ = true;
  } else if (absl::Status status = core_->say(*this, *std::move(message)); !status.ok()) {
    return close(status);
  }
  StartRead(&incoming_);
}

// A request with a field out of range is one user's: refused alone, or each worker that it is tried on would
// close its stream, and end everybody's.
bool ControlServer::Stream::refuse_submit(const absl::Status& why) {
  if (!open_ || !incoming_.has_submit() || incoming_.submit().request().id() == 0) return false;
  const wire::Leg leg = incoming_.submit().leg();
  if (!wire::Leg_IsValid(leg)) return false;
  const SubmitReply reply = {.request = RequestId(incoming_.submit().request().id()),
                             .leg = static_cast<Leg>(leg),
                             .accepted = false,
                             .reason = RefuseReason::kInvalid,
                             .detail = std::string(why.message())};
  wire::WorkerMessage message;
  encode(WorkerMessage(reply), message);
  return send(std::move(message));
}

void ControlServer::Stream::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  const bool more = queue_.pop();
  if (!ok && !closing_) closing_ = absl::CancelledError("the coordinator's stream broke");
  if (closing_) return finish_locked();
  if (more) StartWrite(&queue_.front());
}

void ControlServer::Stream::OnDone() {
  core_->remove(*this, closing_.value_or(absl::CancelledError("the stream ended")));
  const std::shared_ptr<Stream> last = std::move(self_);
}

// ---- Core

absl::Status ControlServer::Core::check(const CoordinatorHello& hello) {
  if (hello.protocol_version != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("protocol version: worker has ", kProtocolVersion,
                                                      ", coordinator has ", hello.protocol_version));
  }
  if (hello.worker_incarnation != worker_.ref.incarnation) {
    return absl::FailedPreconditionError(
        absl::StrCat("incarnation: worker ", worker_.ref.name, " is ", to_string(worker_.ref.incarnation),
                     ", coordinator wants ", to_string(hello.worker_incarnation)));
  }
  const auto seen = coordinators_.find(hello.coordinator_id);
  if (seen != coordinators_.end() && hello.term < seen->second.term) {
    return absl::FailedPreconditionError(absl::StrCat("fenced: coordinator ", hello.coordinator_id,
                                                      " came with term ", hello.term, ", term ",
                                                      seen->second.term, " was seen"));
  }
  return admit_ ? admit_(hello) : absl::OkStatus();
}

absl::Status ControlServer::Core::admit(Stream& stream, const CoordinatorHello& hello) {
  std::shared_ptr<Stream> replaced;
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return absl::UnavailableError("the worker is shutting down");
    RETURN_IF_ERROR(check(hello));
    if (!sink_(CoordinatorOpened{stream.id, hello})) {
      return absl::ResourceExhaustedError("the worker cannot take more messages");
    }
    stream.coordinator = hello.coordinator_id;
    Coordinator& coordinator = coordinators_[hello.coordinator_id];
    if (const auto it = streams_.find(coordinator.current); it != streams_.end()) replaced = it->second;
    coordinator = {hello.term, stream.id, stream.id.value()};
    forget_oldest();
    wire::WorkerMessage answer;
    encode(WorkerMessage(WorkerHello{kProtocolVersion, worker_}), answer);
    stream.send(std::move(answer));
  }
  if (replaced) replaced->close(absl::AbortedError("replaced by a newer stream of this coordinator"));
  return absl::OkStatus();
}

void ControlServer::Core::forget_oldest() {
  if (coordinators_.size() <= kMaxCoordinators) return;
  auto oldest = coordinators_.end();
  for (auto it = coordinators_.begin(); it != coordinators_.end(); ++it) {
    if (it->second.current != StreamId()) continue;
    if (oldest == coordinators_.end() || it->second.used < oldest->second.used) oldest = it;
  }
  if (oldest != coordinators_.end()) coordinators_.erase(oldest);
}

void ControlServer::Core::tick(Instant now) {
  std::lock_guard lock(mutex_);
  for (auto& [id, stream] : streams_) {
    stream->tick();
    if (!stream->coordinator.empty()) continue;
    if (!stream->waiting_since) stream->waiting_since = now;
    if (now - *stream->waiting_since >= timers::kDead) {
      stream->close(absl::DeadlineExceededError("no hello came"));
    }
  }
}

// ---- ControlServer

ControlServer::ControlServer() = default;

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::start(ControlServerOptions options,
                                                                    WorkerDescription worker, Sink sink,
                                                                    Admit admit) {
  std::unique_ptr<ControlServer> server(new ControlServer);
  server->core_ =
      std::make_shared<Core>(std::move(options), std::move(worker), std::move(sink), std::move(admit));
  server->service_ = std::make_unique<Service>(server->core_);
  RETURN_IF_ERROR(server->service_->start());
  return server;
}

ControlServer::~ControlServer() {
  if (core_) core_->stop();
  service_.reset();
}

int ControlServer::port() const { return core_->port(); }
const WorkerDescription& ControlServer::worker() const { return core_->worker(); }

bool ControlServer::send(StreamId stream, const WorkerMessage& message) {
  const std::shared_ptr<Stream> found = core_->find(stream);
  if (!found) return false;
  wire::WorkerMessage encoded;
  encode(message, encoded);
  return found->send(std::move(encoded));
}

void ControlServer::close(StreamId stream, const absl::Status& why) {
  if (const std::shared_ptr<Stream> found = core_->find(stream)) found->close(why);
}

void ControlServer::tick(Instant now) { core_->tick(now); }

}  // namespace baton::transport
