#include "transport/rpc/membership_server.h"

#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/timers.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/grpc_edge.h"
#include "wire.grpc.pb.h"

namespace baton::transport {

namespace {

// One call that waits for its reply. Finished exactly once: by the reply, by the server's end, or by nobody
// wanting to reply any more.
class OpenCall {
 public:
  explicit OpenCall(grpc::ServerUnaryReactor* reactor) : reactor_(reactor) {}
  ~OpenCall() { finish(absl::UnavailableError("the coordinator dropped the call")); }
  OpenCall(const OpenCall&) = delete;
  OpenCall& operator=(const OpenCall&) = delete;

  // `fill` writes the response; it is not called when the call is over.
  template <class Fill>
  void finish(const absl::Status& status, Fill fill) {
    std::lock_guard lock(mutex_);
    if (!reactor_) return;
    fill();
    reactor_->Finish(to_grpc(status));
    reactor_ = nullptr;
  }
  void finish(const absl::Status& status) {
    finish(status, [] {});
  }

 private:
  std::mutex mutex_;
  grpc::ServerUnaryReactor* reactor_;
};

void fill_reply(const JoinAccepted& accepted, wire::JoinReply& reply) {
  reply.set_lease(accepted.lease);
  reply.set_lease_ttl_ns(accepted.ttl.count());
  reply.set_coordinator_id(accepted.coordinator_id);
  reply.set_term(accepted.term);
  reply.mutable_hash_key()->set_k0(accepted.hash_key.k0);
  reply.mutable_hash_key()->set_k1(accepted.hash_key.k1);
}

// `caller` is gRPC's "ipv4:10.0.0.2:4711" or "ipv6:%5B::1%5D:4711".
absl::Status check_reachable(const WorkerDescription& worker, const std::string& caller) {
  const bool here = caller.starts_with("ipv4:127.") || caller.starts_with("ipv6:%5B::1%5D") ||
                    caller.starts_with("ipv6:[::1]");
  if (here || !is_loopback(worker.control_address)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      worker.ref.name, " calls from ", caller, " but says that it listens on ", worker.control_address,
      ", which the coordinator cannot reach; start it with --listen ADDRESS"));
}

}  // namespace

class MembershipServer::Service final : public wire::Membership::CallbackService {
 public:
  Service(MembershipServerOptions options, Sink sink)
      : options_(std::move(options)), sink_(std::move(sink)) {}

  ~Service() override {
    std::map<uint64_t, std::weak_ptr<OpenCall>> calls;
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
      calls.swap(calls_);
    }
    for (auto& [number, weak] : calls) {
      if (const auto call = weak.lock())
        call->finish(absl::UnavailableError("the coordinator is shutting down"));
    }
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + timers::kHeartbeat);
  }

  absl::Status start() {
    ASSIGN_OR_RETURN(ListeningServer listening, listen(options_.listen, options_.security, *this));
    port_ = listening.port;
    server_ = std::move(listening.server);
    return absl::OkStatus();
  }
  int port() const { return port_; }

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context, const wire::JoinRequest* request,
                                 wire::JoinReply* reply) override {
    return take(context, [&](std::shared_ptr<OpenCall> call) -> absl::StatusOr<MembershipCall> {
      if (request->protocol_version() != kProtocolVersion) {
        return absl::FailedPreconditionError(absl::StrCat("protocol version: coordinator has ",
                                                          kProtocolVersion, ", worker has ",
                                                          request->protocol_version()));
      }
      ASSIGN_OR_RETURN(WorkerDescription worker, decode(request->worker()));
      RETURN_IF_ERROR(check_reachable(worker, context->peer()));
      return JoinCall{std::move(worker), [call, reply](absl::StatusOr<JoinAccepted> accepted) {
                        call->finish(accepted.status(), [&] {
                          if (accepted.ok()) fill_reply(*accepted, *reply);
                        });
                      }};
    });
  }

  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context, const wire::RenewRequest* request,
                                  wire::RenewReply*) override {
    return take(context, [&](std::shared_ptr<OpenCall> call) -> absl::StatusOr<MembershipCall> {
      ASSIGN_OR_RETURN(WorkerRef worker, decode(request->worker()));
      return RenewCall{std::move(worker), request->lease(),
                       [call](absl::Status status) { call->finish(status); }};
    });
  }

  grpc::ServerUnaryReactor* Leave(grpc::CallbackServerContext* context, const wire::LeaveRequest* request,
                                  wire::LeaveReply*) override {
    return take(context, [&](std::shared_ptr<OpenCall> call) -> absl::StatusOr<MembershipCall> {
      ASSIGN_OR_RETURN(WorkerRef worker, decode(request->worker()));
      return LeaveCall{std::move(worker), request->lease(),
                       [call](absl::Status status) { call->finish(status); }};
    });
  }

 private:
  template <class Decode>
  grpc::ServerUnaryReactor* take(grpc::CallbackServerContext* context, Decode decode_call) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const auto call = std::make_shared<OpenCall>(reactor);
    if (!peer_allowed(context->auth_context().get(), options_.security)) {
      call->finish(absl::PermissionDeniedError("the certificate is not a worker's"));
      return reactor;
    }
    absl::StatusOr<MembershipCall> decoded = decode_call(call);
    if (!decoded.ok()) {
      call->finish(decoded.status());
    } else if (!add(call) || !sink_(*std::move(decoded))) {
      call->finish(absl::ResourceExhaustedError("the coordinator cannot take more calls"));
    }
    return reactor;
  }

  bool add(const std::shared_ptr<OpenCall>& call) {
    std::lock_guard lock(mutex_);
    std::erase_if(calls_, [](const auto& entry) { return entry.second.expired(); });
    if (stopped_ || calls_.size() >= static_cast<size_t>(options_.max_calls)) return false;
    calls_[++last_call_] = call;
    return true;
  }

  const MembershipServerOptions options_;
  const Sink sink_;
  int port_ = 0;
  std::mutex mutex_;
  bool stopped_ = false;
  uint64_t last_call_ = 0;
  std::map<uint64_t, std::weak_ptr<OpenCall>> calls_;
  std::unique_ptr<grpc::Server> server_;  // last: gone before what its calls use
};

MembershipServer::MembershipServer() = default;
MembershipServer::~MembershipServer() = default;

absl::StatusOr<std::unique_ptr<MembershipServer>> MembershipServer::start(
    const MembershipServerOptions& options, Sink sink) {
  std::unique_ptr<MembershipServer> server(new MembershipServer);
  server->service_ = std::make_unique<Service>(options, std::move(sink));
  RETURN_IF_ERROR(server->service_->start());
  return server;
}

int MembershipServer::port() const { return service_->port(); }

}  // namespace baton::transport
