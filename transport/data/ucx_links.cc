#include "transport/data/ucx_links.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <utility>

#include "base/cat.h"
#include "transport/data/socket_address.h"
#include "transport/data/ucx_start.h"

namespace baton::transport {
namespace {

constexpr unsigned kFrameMessage = 1;
// With its head it fits a segment (ucx_start.cc): UCX gives the kernel one run of memory as it lies, copies
// only what the kernel does not take at once, and joins nothing behind it.
constexpr size_t kPayload = 1024 * 1024;
constexpr size_t kMaxArriving = 256;
constexpr auto kCloseDeadline = std::chrono::seconds(1);

}  // namespace

// ---- start and stop
// -------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<UcxLinks>> UcxLinks::create(const std::string& host, uint16_t port) {
  std::unique_ptr<UcxLinks> links(new UcxLinks);
  RETURN_IF_ERROR(links->start(host, port));
  return links;
}

absl::Status UcxLinks::start(const std::string& host, uint16_t port) {
  ASSIGN_OR_RETURN(const std::string device, interface_of(host));
  RETURN_IF_ERROR(start_worker(device));
  RETURN_IF_ERROR(start_listener(host, port));
  return start_events();
}

absl::Status UcxLinks::start_worker(const std::string& device) {
  ASSIGN_OR_RETURN(
      context_,
      start_ucx({.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .transports = "tcp", .devices = device}));
  ASSIGN_OR_RETURN(worker_, start_ucx_worker(context_));
  ucp_am_handler_param_t receive{};
  receive.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  receive.id = kFrameMessage;
  receive.flags = UCP_AM_FLAG_WHOLE_MSG;
  receive.cb = &UcxLinks::on_message;
  receive.arg = this;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &receive);
  return status == UCS_OK ? absl::OkStatus() : ucx_failed("active messages", status);
}

absl::Status UcxLinks::start_listener(const std::string& host, uint16_t port) {
  ASSIGN_OR_RETURN(const SocketAddress address, parse_address(host, port));
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = address.get();
  params.sockaddr.addrlen = address.size;
  params.conn_handler.cb = &UcxLinks::on_connection;
  params.conn_handler.arg = this;
  ucs_status_t status = ucp_listener_create(worker_, &params, &listener_handle_);
  if (status != UCS_OK) return ucx_failed(cat("listen on ", host, ":", port), status);
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  status = ucp_listener_query(listener_handle_, &attributes);
  if (status != UCS_OK) return ucx_failed("listener", status);
  address_ = join_address(host, SocketAddress{.storage = attributes.sockaddr}.port());
  return absl::OkStatus();
}

absl::Status UcxLinks::start_events() {
  const ucs_status_t status = ucp_worker_get_efd(worker_, &worker_events_);
  if (status != UCS_OK) return ucx_failed("events", status);
  wake_events_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  for (const int fd : {worker_events_, wake_events_}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0)
      return absl::UnavailableError(cat("epoll: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

UcxLinks::~UcxLinks() {
  listener_ = nullptr;  // frames that still arrive are dropped
  while (!links_.empty()) close(links_.begin()->first);
  const auto deadline = std::chrono::steady_clock::now() + kCloseDeadline;
  while (worker_ && !closing_.empty() && std::chrono::steady_clock::now() < deadline) {
    ucp_worker_progress(worker_);
    reap_closed();
  }
  // At once, because of two open faults of UCX's: until the worker has gone, who has connected and not said
  // its first words yet leads UCX's own thread to the listener that was, and who has been rejected to
  // nowhere.
  for (const ucp_conn_request_h request : arriving_) ucp_listener_reject(listener_handle_, request);
  if (listener_handle_) ucp_listener_destroy(listener_handle_);
  if (worker_) ucp_worker_destroy(worker_);
  if (context_) ucp_cleanup(context_);
  if (wake_events_ >= 0) ::close(wake_events_);
  if (epoll_ >= 0) ::close(epoll_);
}

size_t UcxLinks::segment_bytes() const { return kPayload; }

// ---- links
// ----------------------------------------------------------------------------------------------------

LinkId UcxLinks::add_link(ucp_ep_h endpoint) {
  const LinkId id = ++links_made_;
  links_[id] = {.id = id, .endpoint = endpoint};
  by_endpoint_[endpoint] = id;
  return id;
}

absl::StatusOr<LinkId> UcxLinks::connect(const std::string& address) {
  ASSIGN_OR_RETURN(const auto host_port, split_address(address));
  ASSIGN_OR_RETURN(const SocketAddress peer, parse_address(host_port.first, host_port.second));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = peer.get();
  params.sockaddr.addrlen = peer.size;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxLinks::on_error;
  params.err_handler.arg = this;
  ucp_ep_h endpoint = nullptr;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) return ucx_failed(cat("connect to ", address), status);
  return add_link(endpoint);
}

void UcxLinks::on_connection(ucp_conn_request_h request, void* self) {
  auto* links = static_cast<UcxLinks*>(self);
  if (links->arriving_.size() >= kMaxArriving) {
    ucp_listener_reject(links->listener_handle_, request);
    return;
  }
  links->arriving_.push_back(request);
}

void UcxLinks::accept(ucp_conn_request_h request) {
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.conn_request = request;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &UcxLinks::on_error;
  params.err_handler.arg = this;
  ucp_ep_h endpoint = nullptr;
  if (ucp_ep_create(worker_, &params, &endpoint) != UCS_OK) return;  // it went away again
  listener_->on_accepted(add_link(endpoint));
}

// Inside UCX: only notes it.
void UcxLinks::on_error(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  auto* links = static_cast<UcxLinks*>(self);
  const auto it = links->by_endpoint_.find(endpoint);
  if (it != links->by_endpoint_.end()) links->break_link(it->second, ucs_status_string(status));
}

void UcxLinks::break_link(LinkId link, const std::string& reason) { broken_.push_back({link, reason}); }

// Forced: what is under way is dropped and its callbacks run; the other side sees an error.
void UcxLinks::close(LinkId link) {
  const auto it = links_.find(link);
  if (it == links_.end()) return;
  const ucp_ep_h endpoint = it->second.endpoint;
  by_endpoint_.erase(endpoint);
  links_.erase(it);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* request = ucp_ep_close_nbx(endpoint, &param);
  if (UCS_PTR_IS_PTR(request)) closing_.push_back(request);
}

void UcxLinks::reap_closed() {
  std::erase_if(closing_, [](void* request) {
    if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    ucp_request_free(request);
    return true;
  });
}

// ---- frames
// ---------------------------------------------------------------------------------------------------

void UcxLinks::on_sent(void* request, ucs_status_t status, void* user_data) {
  auto* outgoing = static_cast<Outgoing*>(user_data);
  UcxLinks* self = outgoing->owner;
  if (status != UCS_OK && self->links_.contains(outgoing->link))
    self->break_link(outgoing->link, ucs_status_string(status));
  self->outgoing_.erase(outgoing);
  ucp_request_free(request);
}

void UcxLinks::send(LinkId link, OutgoingFrame frame) {
  const auto it = links_.find(link);
  if (it == links_.end()) return;
  auto owned = std::make_unique<Outgoing>();
  Outgoing* outgoing = owned.get();
  outgoing->frame = std::move(frame);
  outgoing->link = link;
  outgoing->owner = this;
  std::string& body = outgoing->frame.body;
  if (!body.empty()) outgoing->parts.push_back({body.data(), body.size()});
  for (const auto part : outgoing->frame.payload)
    outgoing->parts.push_back({const_cast<std::byte*>(part.data()), part.size()});

  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                       UCP_OP_ATTR_FIELD_DATATYPE;
  param.cb.send = &UcxLinks::on_sent;
  param.user_data = outgoing;
  param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
  const bool one = outgoing->parts.size() <= 1;
  param.datatype = one ? ucp_dt_make_contig(1) : ucp_dt_make_iov();
  const void* data =
      one ? (outgoing->parts.empty() ? nullptr : outgoing->parts[0].buffer) : outgoing->parts.data();
  const size_t count =
      one ? (outgoing->parts.empty() ? 0 : outgoing->parts[0].length) : outgoing->parts.size();
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(it->second.endpoint, kFrameMessage, outgoing->frame.head.data(),
                      outgoing->frame.head.size(), data, count, &param);
  if (UCS_PTR_IS_ERR(request)) {
    break_link(link, ucs_status_string(UCS_PTR_STATUS(request)));
  } else if (request != nullptr) {
    outgoing_[outgoing] = std::move(owned);
  }
}

ucs_status_t UcxLinks::on_message(void* self, const void* head, size_t head_bytes, void* data, size_t bytes,
                                  const ucp_am_recv_param_t* param) {
  auto* links = static_cast<UcxLinks*>(self);
  // Rendezvous is never asked for: a peer that uses it is dropped with its message.
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) ||
      !(param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP))
    return UCS_OK;
  const auto it = links->by_endpoint_.find(param->reply_ep);
  if (it == links->by_endpoint_.end() || !links->listener_) return UCS_OK;
  links->listener_->on_frame(it->second, {static_cast<const std::byte*>(head), head_bytes},
                             {static_cast<const std::byte*>(data), bytes});
  return UCS_OK;
}

// ---- loop
// -----------------------------------------------------------------------------------------------------

int UcxLinks::poll() {
  int done = 0;
  while (done < 64 && ucp_worker_progress(worker_) != 0) ++done;
  std::vector<ucp_conn_request_h> arriving;
  arriving.swap(arriving_);
  for (const ucp_conn_request_h request : arriving) accept(request);
  std::vector<Broken> broken;
  broken.swap(broken_);
  for (const Broken& b : broken) {
    if (!links_.contains(b.link)) continue;  // told already, or closed by us
    close(b.link);
    listener_->on_closed(b.link, b.reason);
  }
  reap_closed();
  return done + static_cast<int>(arriving.size() + broken.size());
}

void UcxLinks::wait(Duration timeout) {
  if (!arriving_.empty() || !broken_.empty()) return;
  if (ucp_worker_arm(worker_) == UCS_ERR_BUSY) return;
  if (!closing_.empty()) timeout = std::min<Duration>(timeout, std::chrono::milliseconds(10));
  int milliseconds = -1;
  if (timeout != Duration::max()) {
    const auto up = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    milliseconds = static_cast<int>(std::clamp<int64_t>(up, 0, INT_MAX));
  }
  epoll_event events[2];
  const int n = ::epoll_wait(epoll_, events, 2, milliseconds);
  for (int i = 0; i < n; ++i) {
    uint64_t count;
    if (events[i].data.fd == wake_events_ && ::read(wake_events_, &count, sizeof count) < 0) continue;
  }
}

void UcxLinks::wake() {
  const uint64_t one = 1;
  // The counter cannot overflow in practice, and a full one is awake already.
  if (::write(wake_events_, &one, sizeof one) < 0) return;
}

}  // namespace baton::transport
