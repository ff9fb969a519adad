#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <random>

#include "base/rng.h"
#include "base/timers.h"
#include "tests/support/seed.h"
#include "tests/transport/data/plane_fixture.h"

namespace baton::transport {
namespace {

using testing::HasSubstr;
using Kind = PeerEvent::Kind;

std::span<const std::byte> text(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }

class DataPlaneTest : public testing::TestWithParam<Fabric> {
 protected:
  std::unique_ptr<RecordingPlane> make(const std::string& name, uint64_t incarnation = 1) {
    return std::make_unique<RecordingPlane>(GetParam(), hub_,
                                            plane_options(name, incarnation, lanes_of(GetParam())));
  }
  std::unique_ptr<RecordingPlane> make(const DataPlaneOptions& options) {
    return std::make_unique<RecordingPlane>(GetParam(), hub_, options);
  }
  void step(std::initializer_list<RecordingPlane*> planes) {
    for (RecordingPlane* p : planes) p->plane->do_work(now_);
  }
  bool until(std::initializer_list<RecordingPlane*> planes, const std::function<bool()>& done) {
    return drive([&] { step(planes); }, done);
  }
  absl::Status connect(RecordingPlane& from, RecordingPlane& to) {
    return from.plane->connect(describe(*to.plane, to.ref), now_);
  }
  // Both connected and verified.
  testing::AssertionResult join(RecordingPlane& a, RecordingPlane& b) {
    if (auto s = connect(a, b); !s.ok()) return testing::AssertionFailure() << s;
    if (!until({&a, &b}, [&] { return a.plane->connected(b.ref) && b.plane->connected(a.ref); }))
      return testing::AssertionFailure() << (a.peers.empty() ? "no event" : a.peers.back().detail);
    return testing::AssertionSuccess();
  }

  LoopbackHub hub_;
  Instant now_{std::chrono::seconds(1000)};
};

INSTANTIATE_TEST_SUITE_P(Fabrics, DataPlaneTest,
                         testing::Values(Fabric::kLoopbackStream, Fabric::kLoopbackLocal, Fabric::kUcxAm,
                                         Fabric::kUcxLocal, Fabric::kSocket, Fabric::kSocketLocal,
                                         Fabric::kTls, Fabric::kGet),
                         [](const auto& info) { return fabric_name(info.param); });

TEST_P(DataPlaneTest, BothSidesMeasureTheSameLane) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  for (auto* p : {a.get(), b.get()}) {
    ASSERT_EQ(p->peers.size(), 1u);
    EXPECT_EQ(p->peers[0].kind, Kind::kConnected);
    EXPECT_EQ(p->peers[0].lane, lane_of(GetParam()));
    EXPECT_GT(p->peers[0].bytes_per_second, 1e6);
    EXPECT_GT(p->peers[0].latency.count(), 0);
  }
  EXPECT_EQ(a->plane->lane(b->ref), lane_of(GetParam()));
  // Asked again, it is told again, without a second connection.
  ASSERT_TRUE(connect(*a, *b).ok());
  EXPECT_EQ(a->peers.size(), 2u);
}

TEST_P(DataPlaneTest, MessagesArriveInOrderBothWays) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  const int n = 300;
  for (int i = 0; i < n; ++i) {
    const std::string body(static_cast<size_t>(i) * 97, static_cast<char>(i));  // up to 29 KB
    ASSERT_TRUE(a->plane->send(b->ref, text(std::to_string(i) + ":" + body)).ok());
    ASSERT_TRUE(b->plane->send(a->ref, text(std::to_string(i))).ok());
  }
  const std::string large(kMaxMessage, 'x');  // more than a segment
  ASSERT_TRUE(a->plane->send(b->ref, text(large)).ok());
  EXPECT_FALSE(a->plane->send(b->ref, text(large + "x")).ok());
  ASSERT_TRUE(
      until({a.get(), b.get()}, [&] { return b->messages.size() == n + 1 && a->messages.size() == n; }));
  for (int i = 0; i < n; ++i) {
    EXPECT_EQ(b->messages[i].second,
              std::to_string(i) + ":" + std::string(static_cast<size_t>(i) * 97, static_cast<char>(i)));
    EXPECT_EQ(b->messages[i].first, a->ref);
    EXPECT_EQ(a->messages[i].second, std::to_string(i));
  }
  EXPECT_EQ(b->messages[n].second, large);
}

TEST_P(DataPlaneTest, RandomRunsLandWhereTheReceiverSays) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  auto source = a->plane->pool(), target = b->plane->pool();
  for (auto& byte : source) byte = static_cast<std::byte>(rng.next());
  uint64_t total = 0;
  for (uint64_t round = 1; round <= 40; ++round) {
    const uint64_t lines = 1 + rng.below(3000);
    std::vector<PoolRun> runs;
    b->places.clear();
    std::string want;
    const auto cut = [&](std::vector<PoolRun>& out) {  // `lines` cache lines as random runs anywhere
      for (uint64_t left = lines; left > 0;) {
        const uint64_t n = std::min<uint64_t>(left, 1 + rng.below(out.size() > 400 ? lines : 400));
        out.push_back({.offset = 64 * rng.below(source.size() / 64 - n + 1), .bytes = 64 * n});
        left -= n;
      }
    };
    cut(runs);
    // Places must not overlap: one after the other from a random start.
    uint64_t at = 64 * rng.below(source.size() / 64 - lines + 1);
    cut(b->places);
    for (auto& place : b->places) {
      place.offset = at;
      at += place.bytes;
    }
    for (const auto& run : runs) want.append(reinterpret_cast<const char*>(&source[run.offset]), run.bytes);
    ASSERT_TRUE(a->plane->offer(b->ref, {.cookie = round, .header = text("head"), .runs = runs}).ok());
    ASSERT_TRUE(until({a.get(), b.get()}, [&] { return a->answers.size() == round; }));
    EXPECT_TRUE(a->answers.back().second.ok()) << a->answers.back().second;
    EXPECT_EQ(a->answers.back().first, round);
    EXPECT_EQ(std::memcmp(&target[b->places[0].offset], want.data(), want.size()), 0);
    EXPECT_EQ(b->offered.back(), "head");
    total += want.size();
  }
  EXPECT_EQ(b->plane->counters().bytes_landed, total);
  EXPECT_EQ(b->plane->counters().pieces_landed, 40u);
}

TEST_P(DataPlaneTest, ARefusedOfferMovesNothing) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  std::fill(a->plane->pool().begin(), a->plane->pool().end(), std::byte{1});
  b->refusal = absl::NotFoundError("not granted");
  const PoolRun run{.offset = 0, .bytes = 4096};
  ASSERT_TRUE(a->plane->offer(b->ref, {.cookie = 5, .runs = {&run, 1}}).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->answers.empty(); }));
  EXPECT_EQ(a->answers[0].second, absl::NotFoundError("not granted"));
  EXPECT_EQ(b->plane->pool()[0], std::byte{0});
  EXPECT_TRUE(b->landed.empty());
  EXPECT_EQ(b->plane->counters().pieces_refused, 1u);
}

class LocalLaneTest : public DataPlaneTest {};
INSTANTIATE_TEST_SUITE_P(Fabrics, LocalLaneTest,
                         testing::Values(Fabric::kLoopbackLocal, Fabric::kUcxLocal, Fabric::kSocketLocal,
                                         Fabric::kGet),
                         [](const auto& info) { return fabric_name(info.param); });

// F2: the source block is used again while the piece is under way.
TEST_P(LocalLaneTest, BytesThatChangedAreNotServed) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  const PoolRun run{.offset = 128, .bytes = 64 * 1024};
  b->on_offer_hook = [&] { a->plane->pool()[128 + 777] ^= std::byte{1}; };
  ASSERT_TRUE(a->plane->offer(b->ref, {.cookie = 5, .runs = {&run, 1}}).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->answers.empty(); }));
  EXPECT_EQ(a->answers[0].second.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(b->plane->counters().checksum_mismatches, 1u);
  EXPECT_EQ(b->plane->counters().bytes_landed, 0u);
}

// This process's sockets with the send buffer of peers within the machine, as the kernel doubles it.
int near_sockets() {
  int found = 0;
  for (int fd = 0; fd < 256; ++fd) {
    int bytes = 0;
    socklen_t size = sizeof bytes;
    if (::getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) == 0 && bytes == 512 << 10) ++found;
  }
  return found;
}

TEST(SocketLane, SendsThroughSmallBuffersWithinOneMachineOnly) {
  const Instant now{std::chrono::seconds(1000)};
  for (const bool near : {true, false}) {
    LoopbackHub hub;
    auto other = plane_options("b", 1, lanes_of(Fabric::kSocket));
    if (!near) other.identity.host_id = "another";
    RecordingPlane a(Fabric::kSocket, hub, plane_options("a", 1, lanes_of(Fabric::kSocket)));
    RecordingPlane b(Fabric::kSocket, hub, other);
    ASSERT_TRUE(a.plane->connect(describe(*b.plane, b.ref), now).ok());
    ASSERT_TRUE(drive([&] { a.plane->do_work(now), b.plane->do_work(now); },
                      [&] { return a.plane->connected(b.ref) && b.plane->connected(a.ref); }));
    EXPECT_EQ(near_sockets(), near ? 2 : 0);
  }
}

// The same where the kernel sends the pages themselves.
TEST(SocketLane, BytesThatChangedAreNotServed) {
  LoopbackHub hub;
  auto far = plane_options("b", 1, lanes_of(Fabric::kSocket));
  far.identity.host_id = "another machine";
  RecordingPlane a(Fabric::kSocket, hub, plane_options("a", 1, lanes_of(Fabric::kSocket)));
  RecordingPlane b(Fabric::kSocket, hub, far);
  const Instant now{std::chrono::seconds(1000)};
  const auto until = [&](const std::function<bool()>& done) {
    return drive([&] { a.plane->do_work(now), b.plane->do_work(now); }, done);
  };
  ASSERT_TRUE(a.plane->connect(describe(*b.plane, b.ref), now).ok());
  ASSERT_TRUE(until([&] { return a.plane->connected(b.ref) && b.plane->connected(a.ref); }));
  const PoolRun run{.offset = 128, .bytes = 512 << 10};
  b.places = {run};
  b.on_offer_hook = [&] { a.plane->pool()[128 + (500 << 10)] ^= std::byte{1}; };
  ASSERT_TRUE(a.plane->offer(b.ref, {.cookie = 5, .runs = {&run, 1}}).ok());
  ASSERT_TRUE(until([&] { return !a.answers.empty(); }));
  EXPECT_EQ(a.answers[0].second.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(b.plane->counters().checksum_mismatches, 1u);
  EXPECT_EQ(b.plane->counters().bytes_landed, 0u);
}

TEST_P(DataPlaneTest, EveryMismatchIsRefusedWithItsReason) {
  const auto base = plane_options("a", 1, lanes_of(GetParam()));
  struct Case {
    const char* want;
    std::function<void(DataPlaneOptions&)> change;
  };
  const Case cases[] = {
      {"data protocol version", [](auto& o) { o.identity.protocol_version = 99; }},
      {"KV layout: here layout, peer other", [](auto& o) { o.identity.kv_layout_hash = "other"; }},
      {"model: here model, peer other", [](auto& o) { o.identity.model_hash = "other"; }},
      {"numerics: here numerics, peer other", [](auto& o) { o.identity.numerics_id = "other"; }},
      {"piece checksums", [](auto& o) { o.checksum = false; }},
      {"lanes: here",
       [](auto& o) { o.lanes = lanes_of(o.lanes.local ? Fabric::kSocket : Fabric::kSocketLocal); }},
      {"wants b/1", [](auto& o) { o.identity.self.incarnation = Incarnation(2); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.want);
    auto changed = plane_options("b", 1, lanes_of(GetParam()));
    c.change(changed);
    if (!changed.checksum && !goes_without_checksums(GetParam())) continue;  // does not even start
    auto a = make(base), b = make(changed);
    ASSERT_TRUE(a->plane->connect(describe(*b->plane, {"b", Incarnation(1)}), now_).ok());
    ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->peers.empty(); }));
    EXPECT_EQ(a->peers[0].kind, Kind::kRefused);
    if (std::string(c.want).find(": here ") == std::string::npos)
      EXPECT_THAT(a->peers[0].detail, HasSubstr(c.want));
    else
      EXPECT_THAT(a->peers[0].detail,
                  HasSubstr(std::string(c.want).substr(0, std::string(c.want).find(':'))));
    EXPECT_TRUE(b->peers.empty());
    EXPECT_FALSE(a->plane->connected({"b", Incarnation(1)}));
    EXPECT_EQ(b->plane->counters().handshakes_refused, 1u);
  }
}

TEST_P(DataPlaneTest, AutoTakesLocalAndSaysWhyNot) {
  auto a = make(plane_options("a", 1)), b = make(plane_options("b", 1));
  ASSERT_TRUE(join(*a, *b));
  EXPECT_EQ(a->peers[0].lane, "local");
  EXPECT_EQ(a->peers[0].detail, "");
  auto far = plane_options("c", 1);
  far.identity.host_id = "another";
  auto c = make(far);
  ASSERT_TRUE(join(*a, *c));
  EXPECT_EQ(a->peers[1].lane, a->plane->lane(c->ref));
  EXPECT_NE(a->peers[1].lane, "local");
  EXPECT_THAT(a->peers[1].detail, HasSubstr("another host"));
}

TEST_P(DataPlaneTest, LocalAskedForAndNotPossibleIsRefused) {
  auto here = plane_options("a", 1, {.local = true, .stream = false});
  auto far = plane_options("b", 1);
  far.identity.host_id = "another";
  auto a = make(here), b = make(far);
  ASSERT_TRUE(connect(*a, *b).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return !a->peers.empty(); }));
  EXPECT_EQ(a->peers[0].kind, Kind::kRefused);
  EXPECT_THAT(a->peers[0].detail, HasSubstr("no lane works both ways"));
}

TEST_P(DataPlaneTest, BothConnectAtOnceAndOneConnectionStays) {
  for (int round = 0; round < 5; ++round) {
    auto a = make("a", 1 + round), b = make("b", 1 + round);
    ASSERT_TRUE(connect(*a, *b).ok());
    ASSERT_TRUE(connect(*b, *a).ok());
    ASSERT_TRUE(until({a.get(), b.get()},
                      [&] { return a->plane->connected(b->ref) && b->plane->connected(a->ref); }));
    for (int i = 0; i < 200; ++i) {
      step({a.get(), b.get()});
      now_ += std::chrono::milliseconds(20);
    }
    EXPECT_TRUE(a->plane->connected(b->ref) && b->plane->connected(a->ref));
    EXPECT_EQ(a->peers.size(), 1u);
    EXPECT_EQ(b->peers.size(), 1u);
  }
}

TEST_P(DataPlaneTest, FenceIsForEver) {
  auto a = make("a"), b = make("b", 5);
  ASSERT_TRUE(join(*a, *b));
  a->plane->fence(b->ref);
  EXPECT_EQ(a->peers.back().kind, Kind::kDown);
  EXPECT_FALSE(a->plane->connected(b->ref));
  EXPECT_FALSE(a->plane->send(b->ref, text("x")).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return b->saw(Kind::kDown); }));
  // From here: refused at once. From there: refused in the handshake.
  EXPECT_FALSE(connect(*a, *b).ok());
  ASSERT_TRUE(connect(*b, *a).ok());
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return b->peers.back().kind == Kind::kRefused; }));
  EXPECT_THAT(b->peers.back().detail, HasSubstr("fenced"));
  EXPECT_EQ(a->plane->counters().stale_incarnations, 2u);
  // The next life is welcome, and makes every earlier one stale.
  auto next = make("b", 6);
  ASSERT_TRUE(join(*a, *next));
}

TEST_P(DataPlaneTest, ANewLifeReplacesTheOldOne) {
  auto a = make("a"), old = make("b", 5);
  ASSERT_TRUE(join(*a, *old));
  auto young = make("b", 6);
  ASSERT_TRUE(connect(*young, *a).ok());
  ASSERT_TRUE(until({a.get(), old.get(), young.get()},
                    [&] { return a->plane->connected(young->ref) && old->saw(Kind::kDown); }));
  EXPECT_FALSE(a->plane->connected(old->ref));
  ASSERT_TRUE(connect(*old, *a).ok());
  ASSERT_TRUE(until({a.get(), old.get(), young.get()}, [&] { return old->saw(Kind::kRefused); }));
  EXPECT_TRUE(a->plane->connected(young->ref));
}

TEST_P(DataPlaneTest, APeerThatGoesIsAnEventAndCanComeBack) {
  auto a = make("a"), b = make("b");
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(join(*a, *b));
    const PoolRun run{.offset = 0, .bytes = 64 * 1024};
    for (uint64_t i = 0; i < 20; ++i)
      ASSERT_TRUE(a->plane->offer(b->ref, {.cookie = i, .runs = {&run, 1}}).ok());
    const WorkerRef gone = b->ref;
    b.reset();
    ASSERT_TRUE(until({a.get()}, [&] { return a->peers.back().kind == Kind::kDown; }));
    EXPECT_EQ(a->peers.back().peer, gone);
    b = make("b", 2 + round);
  }
  EXPECT_EQ(a->plane->counters().peers_lost, 5u);
}

TEST_P(DataPlaneTest, NobodyThere) {
  auto a = make("a");
  std::string nowhere;
  {
    auto b = make("b");
    nowhere = b->plane->address();
  }
  const absl::Status started =
      a->plane->connect({.ref = {"b", Incarnation(1)}, .data_address = nowhere}, now_);
  if (started.ok()) {
    ASSERT_TRUE(until({a.get()}, [&] {
      now_ += std::chrono::milliseconds(1);
      return !a->peers.empty();
    }));
    EXPECT_EQ(a->peers[0].kind, Kind::kRefused);
  }
  EXPECT_FALSE(a->plane->connect({.ref = a->ref, .data_address = nowhere}, now_).ok());
  for (const char* bad : {"", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "example.org:5", "[::1:4"})
    EXPECT_FALSE(a->plane->connect({.ref = {"x", Incarnation(1)}, .data_address = bad}, now_).ok()) << bad;
}

TEST(DataPlaneStart, WhatCannotWorkIsRefusedAtOnce) {
  LoopbackHub hub;
  auto options = plane_options("", 1);
  EXPECT_FALSE(make_ucx_data_plane(options).ok());
  EXPECT_FALSE(make_loopback_data_plane(hub, options).ok());
  options = plane_options("a", 1);
  options.identity.model_hash = std::string(257, 'x');
  EXPECT_FALSE(make_ucx_data_plane(options).ok());
  options = plane_options("a", 1);
  options.listen_host = "192.0.2.1";  // documentation network: no interface has it
  EXPECT_THAT(std::string(make_ucx_data_plane(options).status().message()), HasSubstr("no interface"));
  options.listen_host = "localhost.example";
  EXPECT_THAT(std::string(make_ucx_data_plane(options).status().message()), HasSubstr("numeric"));
  options.listen_host = "127.0.0.1";
  auto first = make_ucx_data_plane(options);
  ASSERT_TRUE(first.ok());
  options.listen_port = static_cast<uint16_t>(std::stoi((*first)->address().substr(10)));
  EXPECT_THAT(std::string(make_ucx_data_plane(options).status().message()), HasSubstr("listen on 127.0.0.1"));
}

// Their receivers cannot tell that a sender has given its blocks away (docs/adr/0004).
TEST(DataPlaneStart, AmAndGetDoNotGoWithoutChecksums) {
  for (const char* lane : {"am", "get", "get-emulated"}) {
    auto options = plane_options("a", 1, *parse_lanes(lane));
    options.checksum = false;
    EXPECT_THAT(std::string(make_process_data_plane(options).status().message()),
                HasSubstr("Set transfer.checksum: true, or use transport auto, local or socket"))
        << lane;
  }
  for (const char* lane : {"auto", "local", "socket"}) {
    auto options = plane_options("a", 1, *parse_lanes(lane));
    options.checksum = false;
    EXPECT_TRUE(make_process_data_plane(options).ok()) << lane;
  }
}

// Where `auto` finds RDMA, and checksums are off.
TEST(DataPlaneStart, AutoWithoutChecksumsLeavesGetAloneAndSaysSo) {
  auto options = plane_options("a", 1, *parse_lanes("auto"));
  options.identity.host_id = "";  // so that no faster lane is taken
  options.checksum = false;
  RecordingPlane a(options.identity.self, *make_get_data_plane(options));
  options.identity.self.name = "b";
  RecordingPlane b(options.identity.self, *make_get_data_plane(options));
  const Instant now{std::chrono::seconds(1000)};
  ASSERT_TRUE(a.plane->connect(describe(*b.plane, b.ref), now).ok());
  ASSERT_TRUE(drive([&] { a.plane->do_work(now), b.plane->do_work(now); },
                    [&] { return a.plane->connected(b.ref) && b.plane->connected(a.ref); }));
  EXPECT_EQ(a.peers[0].lane, "socket");
  EXPECT_THAT(a.peers[0].detail, HasSubstr("get needs checksums"));
}

// Somebody connects and says nothing, or never answers: the handshake has a deadline on both sides (I4).
TEST_P(DataPlaneTest, ASilentPeerIsGivenUp) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(connect(*a, *b).ok());
  for (int i = 0; i < 50; ++i) step({a.get()});  // b does not run
  now_ += timers::kTransferCap + std::chrono::seconds(1);
  ASSERT_TRUE(until({a.get()}, [&] {
    now_ += std::chrono::milliseconds(1);
    return a->saw(Kind::kRefused);
  }));
  EXPECT_EQ(a->plane->next_deadline(), kNever);
}

// A pair that is connected and moves nothing: whoever doubts it is told.
TEST_P(DataPlaneTest, WhoIsDoubtedAnswersOrIsLost) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  a->plane->doubt(b->ref);
  for (int i = 0; i < 200; ++i) step({a.get(), b.get()});
  now_ += timers::kQuarantineBeforeTeardown;
  step({a.get()});
  EXPECT_TRUE(a->plane->connected(b->ref));
  a->plane->doubt(b->ref);
  a->plane->doubt(b->ref);  // the first word counts
  now_ += timers::kQuarantineBeforeTeardown - std::chrono::milliseconds(1);
  step({a.get()});
  EXPECT_TRUE(a->plane->connected(b->ref));
  now_ += std::chrono::milliseconds(1);
  step({a.get()});
  EXPECT_FALSE(a->plane->connected(b->ref));
  EXPECT_EQ(a->peers.back().kind, Kind::kDown);
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return b->saw(Kind::kDown); }));
  ASSERT_TRUE(join(*a, *b));
}

TEST_P(DataPlaneTest, WhoIsDisconnectedMayComeBack) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  EXPECT_FALSE(a->plane->hung_up(b->ref));
  a->plane->disconnect(b->ref, "enough");
  EXPECT_EQ(a->peers.back().kind, Kind::kDown);
  EXPECT_EQ(a->peers.back().detail, "enough");
  EXPECT_TRUE(a->plane->hung_up(b->ref));
  // b does not know yet, but can find out.
  const bool ucx = GetParam() == Fabric::kUcxAm || GetParam() == Fabric::kUcxLocal;
  EXPECT_TRUE(b->plane->connected(a->ref));
  EXPECT_EQ(b->plane->hung_up(a->ref), !ucx);
  ASSERT_TRUE(until({a.get(), b.get()}, [&] { return b->saw(Kind::kDown); }));
  ASSERT_TRUE(join(*b, *a));
}

TEST_P(DataPlaneTest, WakeEndsAWaitAndIdleCostsNothing) {
  auto a = make("a"), b = make("b");
  ASSERT_TRUE(join(*a, *b));
  for (int i = 0; i < 20; ++i) step({a.get(), b.get()});
  a->plane->wake();
  a->plane->wait(Duration::max());  // returns: the wake came before
  clock_t cpu = ::clock();
  a->plane->wait(std::chrono::milliseconds(300));
  EXPECT_LT(::clock() - cpu, CLOCKS_PER_SEC / 10);
}

}  // namespace
}  // namespace baton::transport
