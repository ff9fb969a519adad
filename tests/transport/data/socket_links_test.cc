// Frames over plain TCP: whatever the network cuts them into, whoever writes to the port.
#include "transport/data/socket_links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/transport/data/plane_fixture.h"
#include "transport/data/peer_pool.h"

namespace baton::transport {
namespace {

using testing::HasSubstr;

// Places in memory of its own, taken back when `budget` bytes were received.
class TestLanding final : public Landing {
 public:
  std::span<const std::span<std::byte>> room() override {
    if (received_ >= budget) return {};
    return std::span(places).subspan(at_);
  }
  void received(size_t bytes) override {
    received_ += bytes;
    while (bytes > 0) {
      const size_t n = std::min(bytes, places[at_].size());
      places[at_] = places[at_].subspan(n);
      bytes -= n;
      if (places[at_].empty()) ++at_;
    }
  }
  std::vector<std::span<std::byte>> places;
  size_t budget = SIZE_MAX;
  size_t received_ = 0;

 private:
  size_t at_ = 0;
};

class Recorder final : public LinksListener {
 public:
  struct Seen {
    std::string head, payload;
  };
  void on_accepted(LinkId link) override { accepted.push_back(link); }
  Landing* on_payload(LinkId, std::span<const std::byte> head, uint64_t bytes) override {
    if (static_cast<char>(head[0]) != 'L') return nullptr;
    landing = std::make_unique<TestLanding>();
    landing->budget = budget;
    memory.assign(bytes, std::byte{0x77});
    for (size_t at = 0; at < bytes;) {  // places of different sizes, in order
      const size_t n = std::min<size_t>(bytes - at, 1 + at / 3);
      landing->places.push_back(std::span(memory).subspan(at, n));
      at += n;
    }
    return landing.get();
  }
  void on_frame(LinkId, std::span<const std::byte> head, std::span<const std::byte> payload) override {
    const auto text = [](std::span<const std::byte> b) {
      return std::string(reinterpret_cast<const char*>(b.data()), b.size());
    };
    frames.push_back({text(head), landing ? text(memory) : text(payload)});
    landing.reset();
  }
  void on_closed(LinkId link, const std::string& reason) override { closed[link] = reason; }

  std::vector<LinkId> accepted;
  std::vector<Seen> frames;
  std::map<LinkId, std::string> closed;
  std::unique_ptr<TestLanding> landing;
  std::vector<std::byte> memory;
  size_t budget = SIZE_MAX;
};

// A frame as it stands on the wire.
std::string wire(const std::string& head, const std::string& payload) {
  std::string out(16, '\0');
  const uint32_t magic = 0x31535442, head_bytes = static_cast<uint32_t>(head.size());
  const uint64_t payload_bytes = payload.size();
  std::memcpy(out.data(), &magic, 4);
  std::memcpy(out.data() + 4, &head_bytes, 4);
  std::memcpy(out.data() + 8, &payload_bytes, 8);
  return out + head + payload;
}

std::string random_text(Rng& rng, size_t bytes) {
  std::string out(bytes, '\0');
  for (char& c : out) c = static_cast<char>(rng.next());
  return out;
}

class SocketLinksTest : public testing::Test {
 protected:
  SocketLinksTest() : links_(*SocketLinks::create("127.0.0.1", 0)) { links_->set_listener(seen_); }
  ~SocketLinksTest() override {
    for (const int fd : clients_) ::close(fd);
  }
  // A stranger, or a peer whose bytes come as the test likes.
  int client() {
    const auto address = *split_address(links_->address().substr(std::strlen("socket:")));
    const SocketAddress to = *parse_address(address.first, address.second);
    clients_.push_back(::socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(::connect(clients_.back(), to.get(), to.size), 0);
    return clients_.back();
  }
  void say(int fd, std::string_view bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) at += static_cast<size_t>(n);
      if (n < 0 && errno != EAGAIN) return;  // turned away
      links_->poll();
    }
  }
  bool until(const std::function<bool()>& done) {
    return drive([this] { links_->poll(); }, done);
  }

  Recorder seen_;
  std::unique_ptr<SocketLinks> links_;
  std::vector<int> clients_;
};

TEST_F(SocketLinksTest, FramesSurviveEveryCut) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const int fd = client();
  std::string stream;
  std::vector<Recorder::Seen> want;
  for (int i = 0; i < 300; ++i) {
    const bool large = i % 10 == 0;
    const std::string head = (rng.below(2) ? "L" : "C") + random_text(rng, rng.below(large ? 16'000 : 60));
    const std::string payload = random_text(rng, rng.below(3) == 0 ? 0 : rng.below(large ? 900'000 : 9'000));
    stream += wire(head, payload);
    want.push_back({head, payload});
  }
  for (size_t at = 0; at < stream.size();) {
    const size_t n = std::min<size_t>(stream.size() - at, 1 + rng.below(rng.below(4) == 0 ? 400'000 : 3'000));
    say(fd, std::string_view(stream).substr(at, n));
    at += n;
  }
  ASSERT_TRUE(until([&] { return seen_.frames.size() == want.size(); }));
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(seen_.frames[i].head, want[i].head) << i;
    ASSERT_EQ(seen_.frames[i].payload, want[i].payload) << i;
  }
  EXPECT_TRUE(seen_.closed.empty());
}

TEST_F(SocketLinksTest, PlacesThatWereTakenBackAreNotWritten) {
  const int fd = client();
  const std::string payload(800'000, 'x');
  const std::string frame = wire("L1", payload);
  seen_.budget = 300'000;
  say(fd, frame.substr(0, 400'000));
  ASSERT_TRUE(until([&] { return seen_.landing && seen_.landing->received_ >= seen_.budget; }));
  const size_t received = seen_.landing->received_;
  std::fill(seen_.memory.begin(), seen_.memory.end(), std::byte{0x11});  // somebody else's now
  say(fd, frame.substr(400'000) + wire("C2", "next"));
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 2; }));
  EXPECT_EQ(seen_.frames[0].payload, std::string(payload.size(), '\x11'));
  EXPECT_EQ(seen_.frames[1].payload, "next");
  EXPECT_LT(received, payload.size());
}

TEST_F(SocketLinksTest, GarbageEndsItsOwnLinkOnly) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  const int good = client();
  say(good, wire("C", "hello"));
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 1; }));
  std::vector<std::string> bad = {"GET / HTTP/1.1\r\n\r\n", wire("C", std::string(2 << 20, 'x')),
                                  wire(std::string(20'000, 'h'), "")};
  std::string huge = wire("L", "");
  huge[15] = '\x7f';  // a payload of 2^62 bytes
  bad.push_back(huge);
  for (int i = 0; i < 50; ++i) bad.push_back(random_text(rng, 16 + rng.below(5'000)));
  for (const std::string& bytes : bad) {
    const size_t before = seen_.closed.size();
    say(client(), bytes);
    ASSERT_TRUE(until([&] { return seen_.closed.size() == before + 1; }));
    EXPECT_THAT(seen_.closed.rbegin()->second, HasSubstr("stream:"));
  }
  say(good, wire("C", "still here"));
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 2; }));
  EXPECT_FALSE(seen_.closed.contains(seen_.accepted.front()));
}

TEST_F(SocketLinksTest, OutOfDescriptorsTurnsAwayAndDoesNotSpin) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int caller = client();
  const rlimit none{.rlim_cur = static_cast<rlim_t>(caller) + 1, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  std::vector<int> gaps;  // numbers that were free below the limit
  for (int fd = ::dup(caller); fd >= 0; fd = ::dup(caller)) gaps.push_back(fd);
  EXPECT_TRUE(until([&] { return links_->poll() == 0; }));
  char byte;
  EXPECT_EQ(::recv(caller, &byte, 1, 0), 0);  // hung up, not left waiting
  for (const int fd : gaps) ::close(fd);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(seen_.accepted.empty());
  say(client(), wire("C", "later"));
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 1; }));
}

TEST_F(SocketLinksTest, AddressesOfOtherFabricsAreRefused) {
  for (const char* bad : {"127.0.0.1:4711", "loopback:1", "socket:127.0.0.1", "socket:localhost:1",
                          "socket:127.0.0.1:0", "socket:[::1]:4711"})
    EXPECT_FALSE(links_->connect(bad).ok()) << bad;
  EXPECT_THAT(std::string(links_->connect("127.0.0.1:4711").status().message()),
              HasSubstr("the peer's lane is not `socket`"));
  EXPECT_THAT(std::string(SocketLinks::create("192.0.2.1", 0).status().message()), HasSubstr("no interface"));
  const uint16_t taken =
      static_cast<uint16_t>(std::stoi(links_->address().substr(links_->address().rfind(':') + 1)));
  EXPECT_THAT(std::string(SocketLinks::create("127.0.0.1", taken).status().message()),
              HasSubstr("listen on 127.0.0.1"));
}

// Two ends, of which one sends from a pool's file.
class FromFileTest : public testing::Test {
 protected:
  FromFileTest()
      : pool_(*SharedPool::create(8 << 20, false)),
        from_(*SocketLinks::create("127.0.0.1", 0)),
        to_(*SocketLinks::create("127.0.0.1", 0)) {
    from_->set_listener(sender_);
    to_->set_listener(seen_);
  }
  void connect(int descriptor) {
    from_->send_from({.descriptor = descriptor, .mapped = pool_->file()});
    link_ = *from_->connect(to_->address());
    ASSERT_TRUE(until([&] { return !seen_.accepted.empty(); }));
  }
  bool until(const std::function<bool()>& done) {
    return drive(
        [this] {
          from_->poll();
          to_->poll();
        },
        done);
  }
  std::span<std::byte> fill(Rng& rng) {
    const auto bytes = pool_->bytes();
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng.next());
    return bytes;
  }

  std::unique_ptr<SharedPool> pool_;
  std::unique_ptr<SocketLinks> from_, to_;
  Recorder sender_, seen_;
  LinkId link_ = 0;
};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(FromFileTest, RunsOfEverySizeArriveBetweenOtherBytes) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  // A file, and something that the kernel does not send from: then it is copied.
  for (const int descriptor : {pool_->descriptor(), pipe_ends[0]}) {
    const auto bytes = fill(rng);
    const std::string elsewhere = random_text(rng, 100'000);
    connect(descriptor);
    seen_.frames.clear();
    std::vector<Recorder::Seen> want;
    for (int i = 0; i < 60; ++i) {
      OutgoingFrame frame{.head = "L" + random_text(rng, rng.below(40)), .body = {}, .payload = {}};
      if (rng.below(3) == 0) frame.body = random_text(rng, rng.below(50'000));
      std::string payload = frame.body;
      for (uint64_t runs = rng.below(6); runs > 0; --runs) {
        const size_t n = 64 + rng.below(rng.below(2) ? 400'000 : 30'000);
        const size_t at = rng.below(bytes.size() - n);
        frame.payload.push_back(bytes.subspan(at, n));
        if (rng.below(4) == 0) frame.payload.push_back(std::as_bytes(std::span(elsewhere)));
      }
      for (const auto piece : frame.payload) payload += text_of(piece);
      want.push_back({frame.head, payload});
      from_->send(link_, std::move(frame));
      if (rng.below(4) == 0) from_->poll();
    }
    ASSERT_TRUE(until([&] { return seen_.frames.size() == want.size(); }));
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(seen_.frames[i].head, want[i].head) << i;
      ASSERT_TRUE(seen_.frames[i].payload == want[i].payload) << i;
    }
    from_->close(link_);
    ASSERT_TRUE(until([&] { return !seen_.closed.empty(); }));
    seen_.accepted.clear();
    seen_.closed.clear();
  }
  for (const int fd : pipe_ends) ::close(fd);
}

// Told in the middle of a frame, as a session's first frames are on their way then.
TEST_F(FromFileTest, APeerWithinTheMachineGetsTheSameBytes) {
  Rng rng(7);
  const auto bytes = fill(rng);
  connect(pool_->descriptor());
  const auto run = bytes.first(bytes.size() / 64 * 64);
  for (int i = 0; i < 3; ++i) from_->send(link_, {.head = "L", .body = {}, .payload = {run}});
  from_->poll();
  from_->within_machine(link_);
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 3; }));
  for (const auto& frame : seen_.frames) EXPECT_TRUE(frame.payload == text_of(run));
  from_->within_machine(link_ + 1);  // gone, or never there
}

// What it saves, and why the bytes must stay until the peer has answered.
TEST_F(FromFileTest, LongRunsAreNotCopiedShortOnesAre) {
  connect(pool_->descriptor());
  const auto bytes = pool_->bytes();
  std::fill(bytes.begin(), bytes.end(), std::byte{'a'});
  from_->send(link_, {.head = "L", .body = {}, .payload = {bytes.first(4 << 10)}});
  from_->send(link_, {.head = "L", .body = {}, .payload = {bytes.first(256 << 10)}});
  for (int i = 0; i < 10; ++i) from_->poll();
  std::fill(bytes.begin(), bytes.end(), std::byte{'b'});
  ASSERT_TRUE(until([&] { return seen_.frames.size() == 2; }));
  EXPECT_EQ(seen_.frames[0].payload, std::string(4 << 10, 'a'));
  EXPECT_EQ(seen_.frames[1].payload, std::string(256 << 10, 'b'));
}

// A peer that reads as the test likes, and what was said to it.
class LentPagesTest : public FromFileTest {
 protected:
  LentPagesTest() {
    std::signal(SIGPIPE, SIG_DFL);
    from_->send_from({.descriptor = pool_->descriptor(), .mapped = pool_->file()});
    const auto address = *split_address(from_->address().substr(std::strlen("socket:")));
    const SocketAddress to = *parse_address(address.first, address.second);
    reader_ = ::socket(AF_INET, SOCK_STREAM, 0);
    const int little = 64 << 10;
    ::setsockopt(reader_, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    EXPECT_EQ(::connect(reader_, to.get(), to.size), 0);
    EXPECT_TRUE(until([&] { return !sender_.accepted.empty(); }));
    link_ = sender_.accepted[0];
  }
  ~LentPagesTest() override {
    if (reader_ >= 0) ::close(reader_);
  }
  // Up to so many bytes, or to the end. The sender goes on meanwhile.
  std::string read(size_t most) {
    std::string all(most, '\0');
    size_t at = 0;
    const bool done = until([&] {
      const ssize_t n = ::recv(reader_, all.data() + at, most - at, MSG_DONTWAIT);
      if (n < 0 && errno == EAGAIN) return false;
      end_ = n == 0 ? 0 : n < 0 ? errno : -1;
      if (n > 0) at += static_cast<size_t>(n);
      return n <= 0 || at == most;
    });
    EXPECT_TRUE(done);
    all.resize(at);
    return all;
  }

  int reader_ = -1;
  int end_ = -1;  // of the stream: 0 in order, or errno
};

TEST_F(LentPagesTest, AreTakenBackWhenALinkIsClosed) {
  from_->send(link_, {.head = "L", .body = {}, .payload = {pool_->bytes()}});
  for (int i = 0; i < 10; ++i) from_->poll();
  (void)read(100'000);
  from_->close(link_);
  EXPECT_LT(read(pool_->bytes().size()).size(), pool_->bytes().size() / 2);
  EXPECT_EQ(end_, ECONNRESET);  // not what the kernel held, and then an end in order
}

TEST_F(LentPagesTest, ThatThePeerHasDoNotCostTheLastWords) {
  const auto run = pool_->bytes().first(1 << 20);
  from_->send(link_, {.head = "L", .body = {}, .payload = {run}});
  const std::string sent = wire("L", text_of(run));
  EXPECT_TRUE(read(sent.size()) == sent);
  const std::string thanks = wire("thanks", "");  // and with it that all has come
  ASSERT_EQ(::send(reader_, thanks.data(), thanks.size(), 0), static_cast<ssize_t>(thanks.size()));
  ASSERT_TRUE(until([&] { return sender_.frames.size() == 1; }));
  from_->send(link_, {.head = "sorry", .body = {}, .payload = {}});
  from_->close(link_);
  EXPECT_EQ(read(1000), wire("sorry", ""));
  EXPECT_EQ(end_, 0);
}

// The signal that sendfile raises on a connection that both ends have closed.
TEST_F(LentPagesTest, APeerThatLeavesInTheMiddleOfARunEndsTheLinkOnly) {
  for (int i = 0; i < 4; ++i) from_->send(link_, {.head = "L", .body = {}, .payload = {pool_->bytes()}});
  for (int i = 0; i < 10; ++i) from_->poll();
  ASSERT_TRUE(sender_.closed.empty());
  ::shutdown(reader_, SHUT_WR);
  ::close(std::exchange(reader_, -1));  // with bytes that it has not read
  ASSERT_TRUE(until([&] { return sender_.closed.contains(link_); }));
}

TEST_F(SocketLinksTest, AWakeIsNotLostInAPoll) {
  links_->wake();
  for (int i = 0; i < 5; ++i) links_->poll();
  links_->wait(Duration::max());  // returns
}

// I2, through a whole plane: the owner says no in mid-piece.
TEST(SocketPlane, TheOwnerMayTakeItsPlacesBackAtAnyTime) {
  LoopbackHub hub;
  const AllowedLanes lanes{.local = false, .stream = true};
  RecordingPlane a(Fabric::kSocket, hub, plane_options("a", 1, lanes));
  RecordingPlane b(Fabric::kSocket, hub, plane_options("b", 1, lanes));
  const Instant now{std::chrono::seconds(1000)};
  ASSERT_TRUE(a.plane->connect(describe(*b.plane, b.ref), now).ok());
  const auto step = [&] {
    a.plane->do_work(now);
    b.plane->do_work(now);
  };
  ASSERT_TRUE(drive(step, [&] { return a.plane->connected(b.ref) && b.plane->connected(a.ref); }));
  std::fill(a.plane->pool().begin(), a.plane->pool().end(), std::byte{1});
  const PoolRun run{.offset = 0, .bytes = 1 << 20};
  for (int allowed = 0; allowed < 3; ++allowed) {
    int asked = 0;
    b.still_wanted_hook = [&] {
      if (asked++ < allowed) return true;
      std::fill(b.plane->pool().begin(), b.plane->pool().end(), std::byte{9});
      return false;
    };
    a.answers.clear();
    ASSERT_TRUE(a.plane->offer(b.ref, {.cookie = 7, .runs = {&run, 1}}).ok());
    ASSERT_TRUE(drive(step, [&] { return !a.answers.empty(); }));
    EXPECT_EQ(a.answers[0].second.code(), absl::StatusCode::kNotFound);
    for (const std::byte byte : b.plane->pool()) ASSERT_EQ(byte, std::byte{9});
  }
  b.still_wanted_hook = nullptr;
  a.answers.clear();
  ASSERT_TRUE(a.plane->offer(b.ref, {.cookie = 8, .runs = {&run, 1}}).ok());
  ASSERT_TRUE(drive(step, [&] { return !a.answers.empty(); }));
  EXPECT_TRUE(a.answers[0].second.ok());
  EXPECT_EQ(b.plane->counters().checksum_mismatches, 0u);
}

}  // namespace
}  // namespace baton::transport
