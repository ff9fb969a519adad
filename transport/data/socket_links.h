#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "transport/data/socket_address.h"
#include "transport/data/stream_connection.h"

namespace baton::transport {

// Links over TCP, plain or TLS: one listener, one epoll, a connection per link. Nothing but frames is
// understood. Who can connect may say hello as any worker and, when that life is not over, become its peer;
// with TLS that takes a certificate. What it may send before that, and how many such connections there may
// be, FramedDataPlane bounds. Addresses look like "socket:10.0.0.1:4711" or "tls:...": the links of another
// fabric, and plain ones where TLS is wanted, do not take them. Thread: progress, except wake(). create() may
// run on another thread before. Owns: all descriptors. Errors: the kernel's words go into the reason of
// on_closed(); bytes that nobody acknowledges, and a peer's machine that is gone, break the link after
// timers::kTransferCap.
class SocketLinks final : public Links {
 public:
  // `host`: numeric address of one interface; connections are made from it, too.
  // `security`: mutual TLS on every connection; none: plain.
  static absl::StatusOr<std::unique_ptr<SocketLinks>> create(
      const std::string& host, uint16_t port, const std::optional<StreamSecurity>& security = {});
  ~SocketLinks() override;

  // Long runs of payload that lie in there are not copied to be sent. Before any link.
  void send_from(const SourceFile& file);
  void set_listener(LinksListener& listener) override { listener_ = &listener; }
  std::string_view stream_lane() const override { return tls_ ? "socket-tls" : "socket"; }
  // Long ones cost the kernel less; while one is summed nothing is sent.
  size_t segment_bytes() const override { return size_t{512} << 10; }
  const std::string& address() const override { return address_; }
  absl::StatusOr<LinkId> connect(const std::string& address) override;
  void send(LinkId link, OutgoingFrame frame) override;
  void within_machine(LinkId link) override;
  void close(LinkId link) override;
  bool peer_closed(LinkId link) const override;
  int poll() override;
  void wait(Duration timeout) override;
  void wake() override;
  void wait_for(int descriptor) override;

 private:
  using Connection = std::unique_ptr<StreamConnection>;

  SocketLinks() = default;
  absl::Status start(const std::string& host, uint16_t port);
  std::string_view scheme() const { return tls_ ? "tls:" : "socket:"; }
  absl::Status watch(int descriptor, uint64_t key);
  LinkId add_connection(int descriptor, bool connecting);
  int accept_all();
  void serve(StreamConnection& connection, uint32_t events);
  void watch_output(StreamConnection& connection);
  void flush_all();
  int report_broken();

  std::unique_ptr<TlsContext> tls_;
  LinksListener* listener_ = nullptr;
  SourceFile file_;
  SocketAddress own_;  // port 0
  std::string address_;
  int listen_ = -1;
  int wake_events_ = -1;
  int epoll_ = -1;
  int spare_ = -1;  // given up for a moment to turn somebody away when there are no descriptors left
  LinkId links_made_ = 0;
  absl::flat_hash_map<LinkId, Connection> links_;
  absl::flat_hash_map<LinkId, bool> output_watched_;
  std::vector<LinkId> to_flush_;
  std::vector<LinkId> to_receive_;  // bytes of theirs are here, and the kernel does not say so
  std::vector<LinkId> broken_;
  std::vector<Connection> closed_;  // freed when nobody is inside any more
};

}  // namespace baton::transport
