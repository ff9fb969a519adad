#include "transport/rpc/membership_client.h"

#include <algorithm>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <optional>
#include <vector>

#include "base/cat.h"
#include "base/timers.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/grpc_edge.h"
#include "transport/rpc/handshake_log.h"
#include "wire.grpc.pb.h"

namespace baton::transport {

namespace {

using namespace std::chrono_literals;

constexpr Duration kFirstRetry = 100ms;
constexpr Duration kLastRetry = 1s;
constexpr Duration kPoll = 50ms;

// One call under way. Deleted on the owner's thread: its context holds the channel, and the last channel of a
// process must not die on a gRPC thread (gRPC 1.51 then joins that thread from itself).
struct AnyCall {
  virtual ~AnyCall() = default;
  grpc::ClientContext context;
  bool done = false;
  AnyCall() { context.set_deadline(std::chrono::system_clock::now() + timers::kLeaseRenew); }
};
template <class Request, class Reply>
struct Call final : AnyCall {
  Request request;
  Reply reply;
};

// With what to look at, when it is the protection of the two ends that does not fit.
absl::Status explained(const grpc::Status& status) {
  const std::string why =
      absl::IsUnavailable(to_absl(status)) ? explain_handshake(status.error_message()) : "";
  return why.empty()
             ? to_absl(status)
             : absl::UnavailableError(cat("the coordinator: ", why, " (", status.error_message(), ")"));
}

absl::StatusOr<JoinAccepted> accepted_from(const grpc::Status& status, const wire::JoinReply& reply) {
  if (!status.ok()) return explained(status);
  if (reply.lease_ttl_ns() < Duration(timers::kLeaseRenew).count() ||
      reply.lease_ttl_ns() > Duration(1h).count()) {
    return absl::InternalError("the coordinator gave a lease that cannot be renewed in time");
  }
  return JoinAccepted{reply.lease(), Duration(reply.lease_ttl_ns()), reply.coordinator_id(), reply.term(),
                      HashKey{reply.hash_key().k0(), reply.hash_key().k1()}};
}

}  // namespace

class MembershipClient::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<grpc::Channel> channel, WorkerDescription worker, Sink sink)
      : channel_(std::move(channel)),
        stub_(wire::Membership::NewStub(channel_)),
        worker_(std::move(worker)),
        sink_(std::move(sink)) {}

  Instant tick(Instant now);
  void leave();
  bool joined() {
    std::lock_guard lock(mutex_);
    return state_ == State::kHeld;
  }
  void stop();

 private:
  enum class State { kJoining, kHeld, kOver };

  void send_join(Instant now);
  void send_renew(Instant now);
  void on_join(const absl::StatusOr<JoinAccepted>& accepted, Instant sent);
  void on_renew(const absl::Status& status, Instant sent);
  void back_off();
  void tell(MembershipEvent event) {
    if (!stopped_) sink_(std::move(event));
  }
  template <class Request, class Reply>
  Call<Request, Reply>& new_call() {
    auto call = std::make_unique<Call<Request, Reply>>();
    Call<Request, Reply>& out = *call;
    calls_.push_back(std::move(call));
    return out;
  }
  void call_done(AnyCall& call) {
    call.done = true;
    all_done_.notify_all();
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<wire::Membership::Stub> stub_;
  const WorkerDescription worker_;
  const Sink sink_;

  std::mutex mutex_;
  std::condition_variable all_done_;
  bool stopped_ = false;
  State state_ = State::kJoining;
  bool waiting_ = false;  // for the reply of a join or renew
  std::vector<std::unique_ptr<AnyCall>> calls_;
  uint64_t lease_ = 0;
  Duration ttl_{};
  Instant valid_until_{};
  Duration backoff_ = kFirstRetry;
  std::optional<Instant> next_;  // the next call; none: delay_ after the next tick
  Duration delay_{};
  absl::Status last_failure_;
};

Instant MembershipClient::Core::tick(Instant now) {
  std::vector<std::unique_ptr<AnyCall>> ended;
  std::lock_guard lock(mutex_);
  const auto first =
      std::stable_partition(calls_.begin(), calls_.end(), [](const auto& c) { return !c->done; });
  std::move(first, calls_.end(), std::back_inserter(ended));
  calls_.erase(first, calls_.end());
  if (state_ == State::kOver) return kNever;
  if (state_ == State::kHeld && now >= valid_until_) {
    state_ = State::kJoining;
    next_ = now;
    tell(LeaseLost{absl::DeadlineExceededError("the coordinator did not renew the lease in time")});
  }
  if (!next_) next_ = now + std::exchange(delay_, Duration{});
  if (!waiting_ && now >= *next_) state_ == State::kHeld ? send_renew(now) : send_join(now);
  return waiting_ || !next_ ? now + kPoll : std::min(*next_, now + Duration(timers::kLeaseRenew));
}

void MembershipClient::Core::send_join(Instant now) {
  waiting_ = true;
  next_.reset();
  auto& call = new_call<wire::JoinRequest, wire::JoinReply>();
  call.request.set_protocol_version(kProtocolVersion);
  encode(worker_, *call.request.mutable_worker());
  stub_->async()->Join(&call.context, &call.request, &call.reply,
                       [self = shared_from_this(), &call, now](const grpc::Status& status) {
                         std::lock_guard lock(self->mutex_);
                         self->waiting_ = false;
                         if (self->state_ == State::kJoining)
                           self->on_join(accepted_from(status, call.reply), now);
                         self->call_done(call);
                       });
}

void MembershipClient::Core::send_renew(Instant now) {
  waiting_ = true;
  next_.reset();
  auto& call = new_call<wire::RenewRequest, wire::RenewReply>();
  encode(worker_.ref, *call.request.mutable_worker());
  call.request.set_lease(lease_);
  stub_->async()->Renew(&call.context, &call.request, &call.reply,
                        [self = shared_from_this(), &call, now](const grpc::Status& status) {
                          std::lock_guard lock(self->mutex_);
                          self->waiting_ = false;
                          if (self->state_ == State::kHeld) self->on_renew(to_absl(status), now);
                          self->call_done(call);
                        });
}

// The lease counts from when it was asked for: the coordinator's clock started later.
void MembershipClient::Core::on_join(const absl::StatusOr<JoinAccepted>& accepted, Instant sent) {
  if (accepted.ok()) {
    state_ = State::kHeld;
    lease_ = accepted->lease;
    ttl_ = accepted->ttl;
    valid_until_ = sent + ttl_ - Duration(timers::kSelfFenceMargin);
    next_ = sent + Duration(timers::kLeaseRenew);
    backoff_ = kFirstRetry;
    last_failure_ = absl::OkStatus();
    return tell(Joined{*accepted});
  }
  if (absl::IsFailedPrecondition(accepted.status())) {
    state_ = State::kOver;
    return tell(Fenced{accepted.status()});
  }
  back_off();
  if (std::exchange(last_failure_, accepted.status()) != accepted.status())
    tell(JoinFailed{accepted.status()});
}

void MembershipClient::Core::on_renew(const absl::Status& status, Instant sent) {
  if (status.ok()) {
    valid_until_ = sent + ttl_ - Duration(timers::kSelfFenceMargin);
    next_ = sent + Duration(timers::kLeaseRenew);
    backoff_ = kFirstRetry;
  } else if (absl::IsFailedPrecondition(status)) {
    state_ = State::kOver;
    tell(Fenced{status});
  } else if (absl::IsNotFound(status)) {
    state_ = State::kJoining;
    delay_ = {};
    tell(LeaseLost{status});
  } else {
    back_off();
  }
}

void MembershipClient::Core::back_off() {
  delay_ = backoff_;
  backoff_ = std::min(2 * backoff_, kLastRetry);
}

void MembershipClient::Core::leave() {
  std::lock_guard lock(mutex_);
  const bool held = state_ == State::kHeld;
  state_ = State::kOver;
  if (!held) return;
  auto& call = new_call<wire::LeaveRequest, wire::LeaveReply>();
  encode(worker_.ref, *call.request.mutable_worker());
  call.request.set_lease(lease_);
  stub_->async()->Leave(&call.context, &call.request, &call.reply,
                        [self = shared_from_this(), &call](const grpc::Status&) {
                          std::lock_guard lock(self->mutex_);
                          self->call_done(call);
                        });
}

void MembershipClient::Core::stop() {
  std::vector<std::unique_ptr<AnyCall>> calls;
  std::unique_lock lock(mutex_);
  stopped_ = true;
  state_ = State::kOver;
  const auto all_done = [&] {
    return std::all_of(calls_.begin(), calls_.end(), [](const auto& call) { return call->done; });
  };
  // Each call has a deadline; should gRPC not keep it, the core stays as it is with the call.
  if (!all_done_.wait_for(lock, 2 * Duration(timers::kLeaseRenew), all_done)) return;
  calls.swap(calls_);
  stub_.reset();
  const std::shared_ptr<grpc::Channel> channel = std::move(channel_);
  lock.unlock();
  calls.clear();
}

MembershipClient::MembershipClient() = default;
MembershipClient::~MembershipClient() {
  if (core_) core_->stop();
}

absl::StatusOr<std::unique_ptr<MembershipClient>> MembershipClient::create(
    const std::string& coordinator_address, const RpcSecurity& security, WorkerDescription worker,
    Sink sink) {
  ASSIGN_OR_RETURN(auto channel, make_channel(coordinator_address, security, ChannelLife::kProcess));
  std::unique_ptr<MembershipClient> client(new MembershipClient);
  client->core_ = std::make_shared<Core>(std::move(channel), std::move(worker), std::move(sink));
  return client;
}

Instant MembershipClient::tick(Instant now) { return core_->tick(now); }
void MembershipClient::leave() { core_->leave(); }
bool MembershipClient::joined() const { return core_->joined(); }

}  // namespace baton::transport
