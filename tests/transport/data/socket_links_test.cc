// Frames over plain TCP: whatever the network cuts them into, whoever writes to the port.
#include "transport/data/socket_links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/transport/data/plane_fixture.h"

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
