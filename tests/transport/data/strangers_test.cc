// Whoever can connect to a data plane, and what that may cost it before they are known.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "base/cat.h"
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

// A worker with all that a worker shows, of which nobody has told us: it could pose as any other.
// Who has said its name and waits for the coordinator's word is not pushed out by those who say nothing.
TEST_F(StrangersTest, TheSilentOnesGoFirst) {
  DataPlaneOptions options = plane_options("a", 1, lanes_of(Fabric::kSocket));
  options.callers = Callers::kNamed;
  RecordingPlane a(Fabric::kSocket, hub_, options);
  auto b = make("b");
  const auto turn = [&] {
    a.plane->do_work(now_);
    b->plane->do_work(now_);
  };
  ASSERT_TRUE(b->plane->connect(describe(*a.plane, a.ref), now_).ok());
  ASSERT_TRUE(drive(turn, [&] { return a.plane->next_deadline() <= now_ + timers::kTransferCap / 2; }));
  for (int i = 0; i < 80; ++i) {
    strangers_.push_back(std::make_unique<Stranger>(a.plane->address()));
    a.plane->do_work(now_);
  }
  ASSERT_TRUE(drive(turn, [&] { return turned_away() >= 17; }));
  now_ += timers::kTransferCap / 2 - std::chrono::milliseconds(1);
  a.plane->let_in(b->ref);
  // It has the whole time of a handshake from here.
  a.plane->do_work(now_ += std::chrono::milliseconds(2));
  EXPECT_TRUE(drive(turn, [&] { return a.plane->connected(b->ref) && b->plane->connected(a.ref); }));
  EXPECT_TRUE(b->peers.size() == 1 && b->peers[0].kind == PeerEvent::Kind::kConnected);
}

class NamedCallersTest : public testing::TestWithParam<Fabric> {
 protected:
  void SetUp() override {
    if (GetParam() == Fabric::kTls && !TestCertificates::get().there())
      GTEST_SKIP() << "the openssl command is not there or failed";
  }
  std::unique_ptr<RecordingPlane> make(const std::string& name, uint64_t incarnation = 1) {
    DataPlaneOptions options = plane_options(name, incarnation, lanes_of(GetParam()));
    options.callers = Callers::kNamed;
    return std::make_unique<RecordingPlane>(GetParam(), hub_, options);
  }
  void connect(RecordingPlane& from, const RecordingPlane& to) {
    ASSERT_TRUE(from.plane->connect(describe(*to.plane, to.ref), now_).ok());
  }
  void turns(std::initializer_list<RecordingPlane*> planes, int count) {
    while (count-- > 0)
      for (RecordingPlane* p : planes) p->plane->do_work(now_), p->plane->wait(std::chrono::milliseconds(1));
  }
  bool until(std::initializer_list<RecordingPlane*> planes, const std::function<bool()>& done) {
    return drive([&] { turns(planes, 1); }, done);
  }
  // To be named: that takes half as long as a handshake may.
  bool until_it_waits(RecordingPlane& caller, RecordingPlane& called) {
    return until({&caller, &called},
                 [&] { return called.plane->next_deadline() <= now_ + timers::kTransferCap / 2; });
  }

  LoopbackHub hub_;
  Instant now_{std::chrono::seconds(1000)};
};
INSTANTIATE_TEST_SUITE_P(Fabrics, NamedCallersTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kSocket, Fabric::kSocketLocal,
                                         Fabric::kTls, Fabric::kUcxAm),
                         [](const auto& info) { return fabric_name(info.param); });

TEST_P(NamedCallersTest, WhoWasNotNamedWaitsAndIsRefusedWithTheReason) {
  auto a = make("a"), b = make("b");
  connect(*a, *b);
  ASSERT_TRUE(until_it_waits(*a, *b));
  turns({a.get(), b.get()}, 20);
  EXPECT_TRUE(a->peers.empty() && b->peers.empty());
  EXPECT_FALSE(b->plane->connected(a->ref));
  now_ += timers::kTransferCap / 2;
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->peers.empty(); }));
  EXPECT_EQ(a->peers[0].kind, PeerEvent::Kind::kRefused);
  EXPECT_EQ(a->peers[0].detail, "refused by the peer: the coordinator has not named a/1 as a peer of b/1");
  EXPECT_TRUE(b->peers.empty());
  EXPECT_EQ(b->plane->counters().handshakes_refused, 1u);
}

// The coordinator tells both, one of them first.
TEST_P(NamedCallersTest, WhoIsNamedMeanwhileIsLetIn) {
  auto a = make("a"), b = make("b"), c = make("c");
  connect(*a, *b);
  connect(*c, *b);
  ASSERT_TRUE(until_it_waits(*a, *b));
  turns({a.get(), b.get(), c.get()}, 20);
  now_ += timers::kTransferCap / 2 - std::chrono::milliseconds(1);
  connect(*b, *a);           // a was told of b, b is now told of a
  b->plane->let_in(c->ref);  // as rank 0 of its group is, of which no address is known
  ASSERT_TRUE(until({a.get(), b.get(), c.get()}, [&] {
    return a->plane->connected(b->ref) && b->plane->connected(a->ref) && c->plane->connected(b->ref) &&
           b->plane->connected(c->ref);
  }));
  EXPECT_EQ(b->peers.size(), 2u);
  // Named once, it may come again.
  a->plane->disconnect(b->ref, "test");
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !b->plane->connected(a->ref); }));
  connect(*a, *b);
  EXPECT_TRUE(
      until({a.get(), b.get()}, [&] { return a->plane->connected(b->ref) && b->plane->connected(a->ref); }));
}

TEST_P(NamedCallersTest, AnotherLifeThanTheNamedOneIsNotLetIn) {
  auto a = make("a", 2), b = make("b");
  b->plane->let_in({"a", Incarnation(1)});
  connect(*a, *b);
  ASSERT_TRUE(until_it_waits(*a, *b));
  now_ += timers::kTransferCap / 2;
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->peers.empty(); }));
  EXPECT_THAT(a->peers[0].detail, testing::HasSubstr("has not named a/2"));
}

// They count as strangers: many of them do not keep a worker out.
// Being named would not help it.
TEST_P(NamedCallersTest, WhoCallsALifeThatIsOverIsToldAtOnce) {
  auto a = make("a"), b = make("b", 2);
  WorkerDescription before = describe(*b->plane, b->ref);
  before.ref.incarnation = Incarnation(1);
  ASSERT_TRUE(a->plane->connect(before, now_).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->peers.empty(); }));
  EXPECT_EQ(a->peers[0].kind, PeerEvent::Kind::kRefused);
  EXPECT_THAT(a->peers[0].detail, testing::HasSubstr("wants b/1"));
}

TEST_P(NamedCallersTest, SoManyWaitAndNoMore) {
  auto b = make("b"), known = make("known");
  std::vector<std::unique_ptr<RecordingPlane>> callers;
  for (int i = 0; i < 70; ++i) {
    callers.push_back(make(cat("caller-", i)));
    connect(*callers.back(), *b);
    turns({callers.back().get(), b.get()}, 3);
  }
  b->plane->let_in(known->ref);
  connect(*known, *b);
  EXPECT_TRUE(until({known.get(), b.get()}, [&] { return known->plane->connected(b->ref); }));
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
