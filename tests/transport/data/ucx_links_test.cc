// A connection that breaks while a frame is half sent. UCX's TCP completes a zero-copy send twice when
// sendmsg() is what finds the connection broken (uct_tcp_ep_sendv() after uct_tcp_ep_purge(), 1.13 to 1.22);
// where it is built with assertions, as Debian's is, that ends the process. The killed receivers of
// peer_death_test meet that moment only now and then.
#include "transport/data/ucx_links.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <map>

#include "tests/transport/data/plane_fixture.h"

namespace {

std::atomic<bool> connections_are_reset{false};
std::atomic<int> refused_sends{0};

bool refuse() {
  if (!connections_are_reset) return false;
  ++refused_sends;
  errno = ECONNRESET;
  return true;
}

template <class Call>
Call* next(const char* name) {
  return reinterpret_cast<Call*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

// UCX's libraries call these before libc's.
extern "C" ssize_t send(int fd, const void* data, size_t bytes, int flags) {
  return refuse() ? -1 : next<decltype(send)>("send")(fd, data, bytes, flags);
}
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  return refuse() ? -1 : next<decltype(sendmsg)>("sendmsg")(fd, message, flags);
}

namespace baton::transport {
namespace {

class Ends final : public LinksListener {
 public:
  void on_accepted(LinkId link) override { accepted.push_back(link); }
  Landing* on_payload(LinkId, std::span<const std::byte>, uint64_t) override { return nullptr; }
  void on_frame(LinkId, std::span<const std::byte>, std::span<const std::byte> payload) override {
    received += payload.size();
  }
  void on_closed(LinkId link, const std::string& reason) override { closed[link] = reason; }

  std::vector<LinkId> accepted;
  size_t received = 0;
  std::map<LinkId, std::string> closed;
};

TEST(UcxLinks, AConnectionResetInTheMiddleOfAFrameIsTold) {
  auto from = UcxLinks::create("127.0.0.1", 0), to = UcxLinks::create("127.0.0.1", 0);
  ASSERT_TRUE(from.ok() && to.ok()) << from.status() << to.status();
  Ends sender, receiver;
  (*from)->set_listener(sender);
  (*to)->set_listener(receiver);
  const auto link = (*from)->connect((*to)->address());
  ASSERT_TRUE(link.ok()) << link.status();
  const std::vector<std::byte> pool((*from)->segment_bytes(), std::byte{7});
  const auto send_one = [&] { (*from)->send(*link, {.head = "head", .body = "body", .payload = {pool}}); };
  send_one();
  ASSERT_TRUE(drive(
      [&] {
        (*from)->poll();
        (*to)->poll();
      },
      [&] { return receiver.received > 0; }));

  // More than the kernel's buffers take, and nobody reads.
  for (int i = 0; i < 200; ++i) send_one();
  for (int i = 0; i < 1000; ++i) (*from)->poll();
  EXPECT_TRUE(sender.closed.empty());
  connections_are_reset = true;
  // Room, so that it tries to send.
  ASSERT_TRUE(drive(
      [&] {
        (*to)->poll();
        (*from)->poll();
      },
      [&] { return sender.closed.contains(*link); }));
  connections_are_reset = false;
  EXPECT_GT(refused_sends, 0);
  EXPECT_FALSE(sender.closed[*link].empty());
}

}  // namespace
}  // namespace baton::transport
