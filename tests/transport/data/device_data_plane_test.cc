// The life of a transfer between GPUs, on fake ones: lanes `ipc` and `staged`, what is refused, and that
// nothing is written or mapped after its time. What CUDA does with handles and streams is tested on a GPU
// (ipc_gpu_test.cc).
#include "transport/data/device_data_plane.h"

#include <gmock/gmock.h>

#include <random>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/transport/data/fake_device.h"
#include "tests/transport/data/plane_fixture.h"

namespace baton::transport {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr size_t kPool = 40 << 20;  // more than two slabs

// A worker: a fake GPU, its plane over one between host memories, and a listener that writes everything down.
struct GpuWorker {
  GpuWorker(FakeMachine& machine, LoopbackHub& hub, const std::string& name, const DeviceLanes& lanes)
      : device(machine, kPool) {
    DataPlaneOptions options = plane_options(name, 1, {.local = false});
    options.pool_bytes = kPool;
    auto made =
        DeviceDataPlane::make(make_plane(Fabric::kLoopbackStream, hub, options), device, lanes, clock);
    EXPECT_TRUE(made.ok()) << made.status();
    recorder = std::make_unique<RecordingPlane>(options.identity.self, *std::move(made));
    host = recorder->plane->pool();
  }
  DataPlane& plane() const { return *recorder->plane; }
  std::string word(size_t offset, size_t bytes) const {
    return {reinterpret_cast<const char*>(device.kv.data() + offset), bytes};
  }
  void fill(size_t offset, size_t bytes, char with) {
    std::fill_n(device.kv.begin() + static_cast<ptrdiff_t>(offset), bytes, static_cast<std::byte>(with));
  }

  SteadyClock clock;
  FakeDevice device;
  std::unique_ptr<RecordingPlane> recorder;
  std::span<std::byte> host;
};

struct Pair {
  explicit Pair(DeviceLanes first = {.host_id = "here"}, DeviceLanes second = {.host_id = "here"})
      : a(machine, hub, "a", first), b(machine, hub, "b", second) {}
  void step() {
    const Instant now = SteadyClock().now();
    a.plane().do_work(now);
    b.plane().do_work(now);
  }
  bool until(const std::function<bool()>& done) {
    return drive([this] { step(); }, done);
  }
  bool meet() {
    EXPECT_TRUE(a.plane().connect(describe(b.plane(), b.recorder->ref), SteadyClock().now()).ok());
    return until(
        [&] { return a.plane().connected(b.recorder->ref) && b.plane().connected(a.recorder->ref); });
  }
  // a offers these runs to b, until b has answered.
  absl::Status transfer(const std::vector<PoolRun>& runs, uint64_t cookie = 5) {
    const std::string header = "piece";
    const absl::Status offered = a.plane().offer(
        b.recorder->ref, {.cookie = cookie, .header = std::as_bytes(std::span(header)), .runs = runs});
    if (!offered.ok()) return offered;
    const size_t before = a.recorder->answers.size();
    if (!until([&] { return a.recorder->answers.size() > before; }))
      return absl::DeadlineExceededError("no answer");
    EXPECT_EQ(a.recorder->answers.back().first, cookie);
    return a.recorder->answers.back().second;
  }

  FakeMachine machine;
  LoopbackHub hub;
  GpuWorker a, b;
};

TEST(DeviceDataPlane, PeersOfOneMachineMapEachOthersPool) {
  Pair pair;
  ASSERT_TRUE(pair.meet());
  EXPECT_EQ(pair.a.plane().lane(pair.b.recorder->ref), "ipc");
  EXPECT_EQ(pair.b.recorder->peers.at(0).lane, "ipc");
  EXPECT_EQ(pair.machine.mapped.size(), 2u);
  pair.a.fill(128, 192, 'x');
  pair.a.fill(kPool - 64, 64, 'y');
  pair.b.recorder->places = {{0, 64}, {1 << 20, 192}};
  ASSERT_TRUE(pair.transfer({{128, 192}, {kPool - 64, 64}}).ok());
  EXPECT_EQ(pair.b.word(0, 64), std::string(64, 'x'));
  EXPECT_EQ(pair.b.word(1 << 20, 192), std::string(128, 'x') + std::string(64, 'y'));
  EXPECT_THAT(pair.b.recorder->offered, ElementsAre("piece"));
  EXPECT_EQ(pair.b.plane().counters().bytes_landed, 256u);
  EXPECT_TRUE(pair.a.device.pinned.empty() && pair.b.device.pinned.empty()) << "the host saw the bytes";
  ASSERT_TRUE(pair.a.plane().send(pair.b.recorder->ref, std::as_bytes(std::span("hello", 5))).ok());
  ASSERT_TRUE(pair.until([&] { return !pair.b.recorder->messages.empty(); }));
  EXPECT_EQ(pair.b.recorder->messages[0].second, "hello");
}

TEST(DeviceDataPlane, OtherwiseBytesAreStagedInHostMemory) {
  for (const DeviceLanes& other :
       {DeviceLanes{.host_id = "there"}, DeviceLanes{.host_id = "here", .ipc = false},
        DeviceLanes{.host_id = ""}}) {
    Pair pair({.host_id = "here"}, other);
    ASSERT_TRUE(pair.meet());
    EXPECT_EQ(pair.a.plane().lane(pair.b.recorder->ref), "staged/loopback");
    EXPECT_THAT(pair.a.recorder->peers.at(0).detail, HasSubstr("ipc: "));
    EXPECT_TRUE(pair.machine.mapped.empty());
    pair.a.fill(128, 192, 'x');
    const size_t far = PinnedSlabs::kSlabBytes - 64;  // into the second slab
    pair.b.recorder->places = {{far, 192}};
    ASSERT_TRUE(pair.transfer({{128, 192}}).ok());
    EXPECT_EQ(pair.b.word(far, 192), std::string(192, 'x'));
    EXPECT_THAT(pair.a.device.pinned, ElementsAre(pair.a.host.data()));
    EXPECT_THAT(pair.b.device.pinned,
                ElementsAre(pair.b.host.data(), pair.b.host.data() + PinnedSlabs::kSlabBytes));
  }
}

TEST(DeviceDataPlane, WhatIsNotWantedAnyMoreDoesNotReachTheGpu) {
  Pair pair({.host_id = "here"}, {.host_id = "here", .ipc = false});
  ASSERT_TRUE(pair.meet());
  pair.a.fill(0, 64, 'x');
  pair.b.recorder->still_wanted_hook = [] { return false; };
  (void)pair.transfer({{0, 64}});
  EXPECT_EQ(pair.b.word(0, 64), std::string(64, '\0'));
}

TEST(DeviceDataPlane, RefusalsAndPinningThatFailsAreAnswered) {
  Pair ipc;
  ASSERT_TRUE(ipc.meet());
  ipc.a.fill(0, 64, 'x');
  ipc.b.recorder->refusal = absl::NotFoundError("not expected");
  EXPECT_EQ(ipc.transfer({{0, 64}}), absl::NotFoundError("not expected"));
  ipc.b.recorder->refusal = absl::OkStatus();
  ipc.b.recorder->places = {{kPool - 64, 128}};  // the owner's own mistake
  EXPECT_EQ(ipc.transfer({{0, 128}}).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ipc.a.plane().offer(ipc.b.recorder->ref, {.runs = std::vector<PoolRun>{{kPool, 64}}}).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ipc.b.plane().counters().pieces_refused, 2u);
  EXPECT_EQ(ipc.b.word(0, 64), std::string(64, '\0'));

  Pair staged({.host_id = "a"}, {.host_id = "b"});
  ASSERT_TRUE(staged.meet());
  staged.b.device.pinnable = false;
  EXPECT_THAT(staged.transfer({{0, 64}}).message(), HasSubstr("no more pinned memory"));
  staged.a.device.pinnable = false;
  EXPECT_EQ(staged.transfer({{kPool - 64, 64}}).code(), absl::StatusCode::kInternal);
}

TEST(DeviceDataPlane, APoolIsUnmappedBeforeItsOwnersEndIsTold) {
  Pair pair;
  ASSERT_TRUE(pair.meet());
  pair.b.plane().fence(pair.a.recorder->ref);
  EXPECT_FALSE(pair.b.plane().connected(pair.a.recorder->ref));
  EXPECT_FALSE(pair.machine.mapped.contains(pair.a.device.kv.data()));
  ASSERT_TRUE(pair.until([&] { return pair.a.recorder->saw(PeerEvent::Kind::kDown); }));
  EXPECT_TRUE(pair.machine.mapped.empty());
}

// A peer that is not what it seems: a plane of the same fabric whose words the test writes.
struct Forger {
  explicit Forger(DeviceLanes lanes = {.host_id = "here"}) : worker(machine, hub, "w", lanes) {
    DataPlaneOptions options = plane_options("f", 1, {.local = false});
    options.pool_bytes = kPool;
    peer = std::make_unique<RecordingPlane>(Fabric::kLoopbackStream, hub, options);
    EXPECT_TRUE(
        peer->plane->connect(describe(worker.plane(), worker.recorder->ref), SteadyClock().now()).ok());
    EXPECT_TRUE(until([&] { return peer->messages.size() == 1; })) << "the worker's card";
  }
  bool until(const std::function<bool()>& done, Duration ahead = {}) {
    return drive(
        [&] {
          worker.plane().do_work(SteadyClock().now() + ahead);
          peer->plane->do_work(SteadyClock().now());
        },
        done);
  }
  void say(const DeviceWord& word) {
    const std::string text = encode_word(word);
    ASSERT_TRUE(peer->plane->send(worker.recorder->ref, std::as_bytes(std::span(text))).ok());
  }
  DeviceWord heard(size_t i) const {
    const std::string& text = peer->messages.at(i).second;
    return decode_word(std::as_bytes(std::span(text))).value();
  }

  FakeMachine machine;
  LoopbackHub hub;
  GpuWorker worker;
  std::unique_ptr<RecordingPlane> peer;
};

TEST(DeviceDataPlane, AForgedHandleOrOfferWritesNothing) {
  for (const bool right_nonce : {false, true}) {
    Forger forger;
    FakeDevice other(forger.machine, kPool / 2);
    CardWord card{.host_id = "here", .device_id = "gpu-9", .ipc = true, .pool = other.export_pool().value()};
    if (!right_nonce) card.pool.nonce = {1, 2};
    if (right_nonce) card.pool.pool_bytes = kPool;  // more than there is
    forger.say(card);
    ASSERT_TRUE(forger.until([&] { return forger.peer->messages.size() == 2; }));
    EXPECT_FALSE(std::get<LaneWord>(forger.heard(1)).mapped);
    EXPECT_TRUE(forger.machine.mapped.empty());
    forger.say(OfferWord{1, "piece", {{0, 64}}});  // although there is no such lane
    ASSERT_TRUE(forger.until([&] { return forger.peer->messages.size() == 3; }));
    EXPECT_NE(std::get<AnswerWord>(forger.heard(2)).code, 0);
    EXPECT_TRUE(forger.worker.recorder->offered.empty());
  }
  Forger forger;
  FakeDevice other(forger.machine, kPool / 2);
  forger.say(
      CardWord{.host_id = "here", .device_id = "gpu-9", .ipc = true, .pool = other.export_pool().value()});
  forger.say(LaneWord{.mapped = true});
  ASSERT_TRUE(forger.until([&] { return forger.worker.plane().connected(forger.peer->ref); }));
  EXPECT_EQ(forger.worker.plane().lane(forger.peer->ref), "ipc");
  const uint64_t half = kPool / 2;
  const std::vector<std::vector<PoolRun>> wrong = {
      {},        {{half, 64}}, {{half - 64, 128}},    {{1, 64}},
      {{0, 63}}, {{0, 0}},     {{~uint64_t{63}, 64}}, {{64, ~uint64_t{63}}}};
  for (size_t i = 0; i < wrong.size(); ++i) {
    const size_t before = forger.peer->messages.size();
    forger.say(OfferWord{i, "piece", wrong[i]});
    ASSERT_TRUE(forger.until([&] { return forger.peer->messages.size() > before; }));
    EXPECT_NE(std::get<AnswerWord>(forger.heard(before)).code, 0) << i;
  }
  EXPECT_TRUE(forger.worker.recorder->offered.empty());
  forger.say(AnswerWord{77, 0, ""});  // to nothing
  forger.say(OwnerWord{"still here"});
  ASSERT_TRUE(forger.until([&] { return !forger.worker.recorder->messages.empty(); }));
  EXPECT_TRUE(forger.worker.recorder->answers.empty());
  EXPECT_GE(forger.worker.plane().counters().malformed_frames, 1u);
}

TEST(DeviceDataPlane, APeerThatDoesNotTellItsLaneIsRefused) {
  Forger forger;
  EXPECT_FALSE(forger.worker.plane().connected(forger.peer->ref));
  forger.say(OwnerWord{"too early"});
  ASSERT_TRUE(forger.until([&] { return forger.worker.recorder->saw(PeerEvent::Kind::kRefused); }, 10s));
  EXPECT_TRUE(forger.worker.recorder->messages.empty());
  EXPECT_FALSE(forger.worker.plane().connected(forger.peer->ref));
}

// As of a process that was stopped for longer than that.
TEST(DeviceDataPlane, WordsThatComeLateStillCount) {
  Forger forger;
  forger.say(OwnerWord{"too early"});
  ASSERT_TRUE(forger.until([&] { return forger.worker.recorder->saw(PeerEvent::Kind::kRefused); }, 10s));
  EXPECT_FALSE(forger.worker.plane().connected(forger.peer->ref));
  FakeDevice other(forger.machine, kPool);
  forger.say(
      CardWord{.host_id = "here", .device_id = "gpu-9", .ipc = true, .pool = other.export_pool().value()});
  forger.say(LaneWord{.mapped = true});
  ASSERT_TRUE(forger.until([&] { return forger.worker.plane().connected(forger.peer->ref); }));
  EXPECT_EQ(forger.worker.recorder->peers.back().kind, PeerEvent::Kind::kConnected);
}

TEST(DeviceWords, AnyBytesAreReadOrRefused) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(cat("BATON_SEED=", seed));
  std::mt19937_64 random(seed);
  const std::string whole = encode_word(OfferWord{3, "header", {{0, 64}, {128, 64}}});
  ASSERT_TRUE(decode_word(std::as_bytes(std::span(whole))).ok());
  for (size_t cut = 0; cut < whole.size(); ++cut)
    EXPECT_FALSE(decode_word(std::as_bytes(std::span(whole)).first(cut)).ok()) << cut;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 2 == 0) bytes.resize(random() % (bytes.size() + 8));
    const auto word = decode_word(std::as_bytes(std::span(bytes)));
    if (!word.ok()) continue;
    EXPECT_EQ(encode_word(*word).size(), bytes.size());
  }
}

}  // namespace
}  // namespace baton::transport
