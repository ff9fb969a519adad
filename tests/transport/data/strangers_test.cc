// Whoever can connect to a data plane, and what that may cost it before they are known.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "base/timers.h"
#include "tests/transport/data/plane_fixture.h"

namespace baton::transport {
namespace {

// A TCP connection that is no worker's.
class Stranger {
 public:
  explicit Stranger(const std::string& address) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0) << std::strerror(errno);
  }
  ~Stranger() { ::close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  void say(const std::string& bytes) const {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  bool turned_away() const {
    char byte;
    const ssize_t n = ::recv(fd_, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
  }

 private:
  const int fd_;
};

class StrangersTest : public testing::Test {
 protected:
  std::unique_ptr<RecordingPlane> make(const std::string& name) {
    return std::make_unique<RecordingPlane>(Fabric::kSocket, hub_,
                                            plane_options(name, 1, lanes_of(Fabric::kSocket)));
  }
  size_t turned_away() const {
    size_t n = 0;
    for (const auto& stranger : strangers_) n += stranger->turned_away();
    return n;
  }

  LoopbackHub hub_;
  Instant now_{std::chrono::seconds(1000)};
  std::vector<std::unique_ptr<Stranger>> strangers_;
};

// The oldest go: who is a worker has said so long before.
TEST_F(StrangersTest, SoManyWithoutANameAndNoMore) {
  auto a = make("a"), b = make("b");
  for (int i = 0; i < 80; ++i) {
    strangers_.push_back(std::make_unique<Stranger>(a->plane->address()));
    a->plane->do_work(now_);
  }
  ASSERT_TRUE(drive([&] { a->plane->do_work(now_); }, [&] { return turned_away() >= 16; }));
  EXPECT_EQ(turned_away(), 16u);
  for (size_t i = 0; i < 16; ++i) EXPECT_TRUE(strangers_[i]->turned_away()) << i;
  // A worker is let in beside them, and the rest ends by its deadline.
  ASSERT_TRUE(b->plane->connect(describe(*a->plane, a->ref), now_).ok());
  ASSERT_TRUE(drive(
      [&] {
        a->plane->do_work(now_);
        b->plane->do_work(now_);
      },
      [&] { return a->plane->connected(b->ref) && b->plane->connected(a->ref); }));
  now_ += timers::kTransferCap;
  ASSERT_TRUE(drive([&] { a->plane->do_work(now_); }, [&] { return turned_away() == strangers_.size(); }));
  EXPECT_TRUE(a->plane->connected(b->ref));
}

// A frame is 16 bytes of prefix (magic, length of head, of payload), head, payload.
TEST_F(StrangersTest, NoBytesBeforeTheHello) {
  auto a = make("a");
  std::string frame = "BTS1";
  const uint32_t head = 8;
  const uint64_t payload = 1 << 20;
  frame.append(reinterpret_cast<const char*>(&head), sizeof head);
  frame.append(reinterpret_cast<const char*>(&payload), sizeof payload);
  frame.append(head, 'x');
  Stranger stranger(a->plane->address());
  stranger.say(frame);
  ASSERT_TRUE(drive([&] { a->plane->do_work(now_); }, [&] { return stranger.turned_away(); }));
  EXPECT_EQ(a->plane->counters().malformed_frames, 1u);
}

// A connect() whose peer is connecting to us waits for that connection's deadline and not for its own.
TEST(ConnectingBothWays, AnExpiredWishDoesNotKeepTheThreadAwake) {
  LoopbackHub hub;
  const auto options = [](const char* name) {
    return plane_options(name, 1, lanes_of(Fabric::kLoopbackStream));
  };
  RecordingPlane a(Fabric::kLoopbackStream, hub, options("a")), b(Fabric::kLoopbackStream, hub, options("b"));
  Instant now{std::chrono::seconds(1000)};
  ASSERT_TRUE(b.plane->connect(describe(*a.plane, a.ref), now).ok());
  now += timers::kTransferCap / 2;
  // Says hello, and no more: its process is stopped.
  ASSERT_TRUE(a.plane->connect(describe(*b.plane, b.ref), now).ok());
  b.plane->do_work(now);
  now += timers::kTransferCap / 2;
  b.plane->do_work(now);  // its own attempt is over
  EXPECT_FALSE(b.saw(PeerEvent::Kind::kRefused));
  EXPECT_GT(b.plane->next_deadline(), now);
  now = b.plane->next_deadline();
  b.plane->do_work(now);
  EXPECT_TRUE(b.saw(PeerEvent::Kind::kRefused));
  EXPECT_EQ(b.plane->next_deadline(), kNever);
}

}  // namespace
}  // namespace baton::transport
