#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "transport/data/links.h"

namespace baton::transport {

// Links over UCX: one context, one worker, one listener; a link is an endpoint with peer error handling, a
// frame one eager active message. No RMA feature is used: nothing outside this process can write its memory,
// and the death of a peer is an error callback (PUT killed survivors; active messages do not, as long as they
// are sent without zero copy: ucx_start.cc). Thread: progress (UCX in single-thread mode), except wake().
// create() may run on another thread before. Owns: all UCX handles. Errors: UCX's words go into the reason of
// on_closed().
class UcxLinks final : public Links {
 public:
  // `host`: numeric address of one interface; traffic stays on that interface.
  static absl::StatusOr<std::unique_ptr<UcxLinks>> create(const std::string& host, uint16_t port);
  ~UcxLinks() override;

  void set_listener(LinksListener& listener) override { listener_ = &listener; }
  std::string_view stream_lane() const override { return "am"; }
  size_t segment_bytes() const override;
  const std::string& address() const override { return address_; }
  absl::StatusOr<LinkId> connect(const std::string& address) override;
  void send(LinkId link, OutgoingFrame frame) override;
  void close(LinkId link) override;
  int poll() override;
  void wait(Duration timeout) override;
  void wake() override;

 private:
  struct Link {
    LinkId id = 0;
    ucp_ep_h endpoint = nullptr;
  };
  struct Broken {
    LinkId link = 0;
    std::string reason;
  };
  // A frame under way: UCX reads head and parts until the send is done.
  struct Outgoing {
    OutgoingFrame frame;
    std::vector<ucp_dt_iov_t> parts;
    LinkId link = 0;
    UcxLinks* owner = nullptr;
  };

  UcxLinks() = default;
  absl::Status start(const std::string& host, uint16_t port);
  absl::Status start_worker(const std::string& device);
  absl::Status start_listener(const std::string& host, uint16_t port);
  absl::Status start_events();
  LinkId add_link(ucp_ep_h endpoint);
  void break_link(LinkId link, const std::string& reason);
  void accept(ucp_conn_request_h request);
  void reap_closed();

  static void on_connection(ucp_conn_request_h request, void* self);
  static void on_error(void* self, ucp_ep_h endpoint, ucs_status_t status);
  static void on_sent(void* request, ucs_status_t status, void* outgoing);
  static ucs_status_t on_message(void* self, const void* head, size_t head_bytes, void* data, size_t bytes,
                                 const ucp_am_recv_param_t* param);

  LinksListener* listener_ = nullptr;
  std::string address_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_handle_ = nullptr;
  int worker_events_ = -1;  // owned by UCX
  int wake_events_ = -1;
  int epoll_ = -1;
  LinkId links_made_ = 0;
  absl::flat_hash_map<LinkId, Link> links_;
  absl::flat_hash_map<ucp_ep_h, LinkId> by_endpoint_;
  absl::flat_hash_map<Outgoing*, std::unique_ptr<Outgoing>> outgoing_;
  std::vector<ucp_conn_request_h> arriving_;
  std::vector<Broken> broken_;
  std::vector<void*> closing_;
};

}  // namespace baton::transport
