// Lanes on which something other than the progress thread moves the bytes: what is in use until when, what a
// peer may say, and what the ticket of `get` must be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>

#include "base/timers.h"
#include "tests/support/temp_dir.h"
#include "tests/transport/data/held_pull_lane.h"
#include "tests/transport/data/plane_fixture.h"
#include "transport/data/byte_codec.h"
#include "transport/data/framed_data_plane.h"
#include "transport/data/get_ticket.h"
#include "transport/data/loopback_links.h"
#include "transport/data/session.h"
#include "transport/data/ucx_start.h"

namespace baton::transport {
namespace {

using testing::HasSubstr;
using Kind = PeerEvent::Kind;

constexpr size_t kPiece = 64 << 10;

// Changes what is said on its way.
class ForgingLinks final : public Links {
 public:
  using Forge = std::function<void(FrameBody&)>;
  ForgingLinks(LoopbackHub& hub, const Forge& forge) : links_(hub), forge_(forge) {}
  void set_listener(LinksListener& listener) override { links_.set_listener(listener); }
  std::string_view stream_lane() const override { return links_.stream_lane(); }
  size_t segment_bytes() const override { return links_.segment_bytes(); }
  const std::string& address() const override { return links_.address(); }
  absl::StatusOr<LinkId> connect(const std::string& address) override { return links_.connect(address); }
  void close(LinkId link) override { links_.close(link); }
  int poll() override { return links_.poll(); }
  void wait(Duration timeout) override { links_.wait(timeout); }
  void wake() override { links_.wake(); }
  void send(LinkId link, OutgoingFrame frame) override {
    auto said = decode_frame(as_bytes(frame.head));
    if (forge_ && said.ok()) {
      forge_(said->body);
      frame.head = encode_frame(*said);
    }
    links_.send(link, std::move(frame));
  }

 private:
  LoopbackLinks links_;
  const Forge& forge_;
};

class PullLaneTest : public testing::Test {
 protected:
  std::unique_ptr<RecordingPlane> make(const std::string& name, AllowedLanes lanes = kGetOnly,
                                       uint64_t incarnation = 1) {
    const DataPlaneOptions options = plane_options(name, incarnation, lanes);
    auto pool = SharedPool::create(options.pool_bytes, false);
    EXPECT_TRUE(pool.ok());
    PullLanes pulls;
    pulls.lanes.push_back(std::make_unique<HeldPullLane>(fabric_, (*pool)->file()));
    lane_[name] = static_cast<HeldPullLane*>(pulls.lanes.back().get());
    return std::make_unique<RecordingPlane>(
        options.identity.self, std::make_unique<FramedDataPlane>(options, *std::move(pool),
                                                                 std::make_unique<ForgingLinks>(hub_, forge_),
                                                                 nullptr, std::move(pulls)));
  }
  void start() {
    a_ = make("a");
    b_ = make("b");
    join();
    std::ranges::fill(a_->plane->pool(), std::byte{7});
  }
  void join() {
    ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
    ASSERT_TRUE(until([&] { return a_->plane->connected(b_->ref) && b_->plane->connected(a_->ref); }));
  }
  void step() {
    if (a_) a_->plane->do_work(now_);
    if (b_) b_->plane->do_work(now_);
  }
  void steps() {
    for (int i = 0; i < 20; ++i) step();
  }
  bool until(const std::function<bool()>& done) {
    return drive([this] { step(); }, done);
  }
  void offer() {
    const PoolRun run{.offset = 0, .bytes = kPiece};
    ASSERT_TRUE(a_->plane->offer(b_->ref, {.cookie = ++cookie_, .runs = {&run, 1}}).ok());
  }

  static constexpr AllowedLanes kGetOnly{.local = false, .stream = false, .get = true};
  LoopbackHub hub_;
  PullFabric fabric_;
  ForgingLinks::Forge forge_;
  std::map<std::string, HeldPullLane*> lane_;
  Instant now_{std::chrono::seconds(1000)};
  uint64_t cookie_ = 0;
  std::unique_ptr<RecordingPlane> a_, b_;
};

// ---- what is in use until when

TEST_F(PullLaneTest, APlaceIsInUseUntilItsReadHasEnded) {
  start();
  EXPECT_TRUE(b_->plane->lands_by_itself(a_->ref));
  fabric_.hold = true;
  offer();
  ASSERT_TRUE(until([&] { return lane_["b"]->under_way() > 0; }));
  b_->plane->fence(a_->ref);
  steps();
  EXPECT_EQ(b_->peers.back().kind, Kind::kDown);
  EXPECT_TRUE(b_->landed.empty());  // it may be written still
  fabric_.hold = false;
  steps();
  ASSERT_EQ(b_->landed.size(), 1u);
  EXPECT_EQ(b_->landed[0].code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(b_->plane->counters().bytes_landed, 0u);
}

TEST_F(PullLaneTest, AReadThatDoesNotEndCostsThePeerAndNothingElse) {
  start();
  fabric_.hold = true;
  offer();
  ASSERT_TRUE(until([&] { return lane_["b"]->under_way() > 0; }));
  const Instant deadline = b_->plane->next_deadline();
  EXPECT_GE(deadline, now_ + timers::kTransferBase);
  EXPECT_LE(deadline, now_ + timers::kTransferCap);
  now_ = deadline;
  steps();
  EXPECT_EQ(b_->peers.back().kind, Kind::kDown);
  EXPECT_THAT(b_->peers.back().detail, HasSubstr("did not end in time"));
  EXPECT_TRUE(b_->landed.empty());
  fabric_.hold = false;
  steps();
  ASSERT_EQ(b_->landed.size(), 1u);
  join();
  offer();
  ASSERT_TRUE(until([&] { return a_->answers.size() == 1; }));
  EXPECT_TRUE(a_->answers[0].second.ok());
}

TEST_F(PullLaneTest, NotMoreThanAWindowIsFetchedAtATime) {
  start();
  fabric_.hold = true;
  const PoolRun run{.offset = 0, .bytes = 512 << 10};
  for (int i = 0; i < 40; ++i)
    ASSERT_TRUE(a_->plane->offer(b_->ref, {.cookie = ++cookie_, .runs = {&run, 1}}).ok());
  steps();
  // As many as the measured rate allows: 8, or fewer where the test transfer was held up.
  const size_t window = pull_window(b_->peers.back().bytes_per_second);
  EXPECT_EQ(lane_["b"]->under_way(), (window + run.bytes - 1) / run.bytes);
  EXPECT_GT(b_->plane->next_deadline(), now_);  // waits, does not spin
  fabric_.hold = false;
  ASSERT_TRUE(until([&] { return a_->answers.size() == 40; }));
  EXPECT_EQ(b_->plane->counters().pieces_landed, 40u);
}

TEST_F(PullLaneTest, AFailedReadEndsThePair) {
  start();
  fabric_.fail = true;
  offer();
  ASSERT_TRUE(until([&] { return b_->peers.back().kind == Kind::kDown; }));
  ASSERT_EQ(b_->landed.size(), 1u);
  EXPECT_EQ(b_->landed[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(b_->peers.back().detail, HasSubstr("get: no way"));
}

TEST_F(PullLaneTest, DamagedBytesAreNotServed) {
  start();
  fabric_.damage = true;
  offer();
  ASSERT_TRUE(until([&] { return !a_->answers.empty(); }));
  EXPECT_EQ(a_->answers[0].second.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(b_->plane->counters().checksum_mismatches, 1u);
  EXPECT_TRUE(b_->plane->connected(a_->ref));
}

// ---- choosing it

TEST_F(PullLaneTest, ATestTransferDecides) {
  AllowedLanes any = kGetOnly;
  any.stream = true;
  a_ = make("a", any), b_ = make("b", any);
  join();
  EXPECT_EQ(a_->peers[0].lane, "get");
  EXPECT_GT(a_->peers[0].bytes_per_second, 1e6);
  fabric_.damage = true;
  a_ = make("a", any, 2), b_ = make("b", any, 2);
  join();
  EXPECT_EQ(a_->peers[0].lane, "loopback");
  EXPECT_THAT(a_->peers[0].detail, HasSubstr("get: the test transfer came out wrong"));
  EXPECT_FALSE(a_->plane->lands_by_itself(b_->ref));
}

TEST_F(PullLaneTest, AskedForAndNotPossibleIsRefused) {
  fabric_.fail = true;
  a_ = make("a"), b_ = make("b");
  ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
  ASSERT_TRUE(until([&] { return !a_->peers.empty(); }));
  EXPECT_EQ(a_->peers[0].kind, Kind::kRefused);
  EXPECT_THAT(a_->peers[0].detail, HasSubstr("no lane works both ways"));
  EXPECT_THAT(a_->peers[0].detail, HasSubstr("get: no way"));
}

TEST_F(PullLaneTest, ATestTransferThatDoesNotEndIsGivenUp) {
  fabric_.hold = true;
  a_ = make("a"), b_ = make("b");
  ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
  ASSERT_TRUE(until([&] { return lane_["a"]->under_way() > 0 && lane_["b"]->under_way() > 0; }));
  now_ += timers::kTransferCap / 2;
  ASSERT_TRUE(until([&] { return !a_->peers.empty(); }));
  EXPECT_EQ(a_->peers[0].kind, Kind::kRefused);
  EXPECT_THAT(a_->peers[0].detail, HasSubstr("get: the test transfer did not end"));
  fabric_.hold = false;
  steps();  // late reads meet nobody
}

// ---- what a peer may say

TEST_F(PullLaneTest, ForgedOffersReadNothing) {
  constexpr uint64_t kPool = 1 << 20;
  const std::pair<const char*, std::function<void(OfferFrame&)>> forgeries[] = {
      {"behind the pool", [](OfferFrame& o) { o.runs[0].offset = kPool; }},
      {"over its end", [](OfferFrame& o) { o.runs[0].offset = kPool - kPiece + 64; }},
      {"around the end of all memory", [](OfferFrame& o) { o.runs[0].offset = ~uint64_t{63}; }},
      {"before the pool", [](OfferFrame& o) { o.runs[0].offset = ~uint64_t{4095}; }},
      {"too long", [](OfferFrame& o) { o.runs[0].bytes = o.bytes = ~uint64_t{63}; }},
      {"not aligned", [](OfferFrame& o) { o.runs[0].offset = 8; }},
      {"empty", [](OfferFrame& o) { o.runs[0].bytes = o.bytes = 0; }},
      {"no runs", [](OfferFrame& o) { o.runs.clear(); }},
      {"another length", [](OfferFrame& o) { o.bytes += 64; }},
      {"no checksum", [](OfferFrame& o) { o.has_checksum = false; }},
      {"another checksum", [](OfferFrame& o) { o.checksum ^= 1; }},
  };
  start();
  for (const auto& [name, forge] : forgeries) {
    SCOPED_TRACE(name);
    forge_ = [&](FrameBody& body) {
      if (auto* said = std::get_if<OfferFrame>(&body)) forge(*said);
    };
    const size_t answered = a_->answers.size();
    offer();
    ASSERT_TRUE(until([&] { return a_->answers.size() > answered; }));
    EXPECT_FALSE(a_->answers.back().second.ok());
  }
  EXPECT_EQ(b_->plane->counters().pieces_refused, std::size(forgeries) - 1);
  EXPECT_EQ(b_->plane->counters().checksum_mismatches, 1u);
  EXPECT_EQ(b_->plane->counters().bytes_landed, 0u);
  forge_ = [](FrameBody& body) {
    if (auto* said = std::get_if<OfferFrame>(&body)) said->lane = Lane::kLocal;
  };
  offer();
  ASSERT_TRUE(until([&] { return a_->peers.back().kind == Kind::kDown; }));
  EXPECT_EQ(b_->plane->counters().malformed_frames, 1u);
}

TEST_F(PullLaneTest, ForgedTicketsAreRefused) {
  const std::pair<const char*, std::function<void(HelloFrame&)>> forgeries[] = {
      {"ticket: of nobody", [](HelloFrame& h) { h.tickets[0].text.pop_back(); }},
      {"the peer has no ticket", [](HelloFrame& h) { h.tickets.clear(); }},
      {"the peer has no ticket", [](HelloFrame& h) { h.tickets[0].lane = Lane::kLocal; }},
      {"another pool than was told", [](HelloFrame& h) { h.pool.pool_bytes += 64; }},
  };
  uint64_t life = 0;
  for (const auto& [why, forge] : forgeries) {
    SCOPED_TRACE(why);
    forge_ = [&](FrameBody& body) {
      if (auto* said = std::get_if<HelloFrame>(&body)) forge(*said);
    };
    ++life;
    a_ = make("a", kGetOnly, life), b_ = make("b", kGetOnly, life);
    ASSERT_TRUE(a_->plane->connect(describe(*b_->plane, b_->ref), now_).ok());
    ASSERT_TRUE(until([&] { return !a_->peers.empty(); }));
    EXPECT_EQ(a_->peers[0].kind, Kind::kRefused);
    EXPECT_THAT(a_->peers[0].detail, HasSubstr(why));
  }
}

TEST(GetTicket, OnlyWhatWasMadeIsRead) {
  const GetTicket made{
      .base = 0x7f0000000000, .bytes = kPoolStart + (1 << 20), .address = "address", .key = "key"};
  const std::string text = encode_ticket(made);
  const auto read = decode_ticket(as_bytes(text));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->base, made.base);
  EXPECT_EQ(read->bytes, made.bytes);
  EXPECT_EQ(read->address, made.address);
  EXPECT_EQ(read->key, made.key);
  for (size_t cut = 0; cut < text.size(); ++cut)
    EXPECT_FALSE(decode_ticket(as_bytes(text.substr(0, cut))).ok()) << cut;
  EXPECT_FALSE(decode_ticket(as_bytes(text + "x")).ok());
  for (size_t at = 0; at < text.size(); ++at) {
    std::string damaged = text;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_FALSE(decode_ticket(as_bytes(damaged)).ok()) << at;
  }
}

TEST(GetTicket, ImpossibleMemoryIsRefused) {
  const GetTicket good{.base = 4096, .bytes = kPoolStart + 64, .address = "a", .key = "k"};
  const auto refused = [&](const std::function<void(GetTicket&)>& change) {
    GetTicket ticket = good;
    change(ticket);
    return !decode_ticket(as_bytes(encode_ticket(ticket))).ok();
  };
  EXPECT_FALSE(refused([](GetTicket&) {}));
  EXPECT_TRUE(refused([](GetTicket& t) { t.base = 0; }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.base = 4097; }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.base = ~uint64_t{4095}; }));  // wraps around
  EXPECT_TRUE(refused([](GetTicket& t) { t.bytes = kPoolStart; }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.bytes = ~uint64_t{0}; }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.address.clear(); }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.key.clear(); }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.address.assign(kMaxUcxAddress + 1, 'x'); }));
  EXPECT_TRUE(refused([](GetTicket& t) { t.key.assign(kMaxUcxKey + 1, 'x'); }));
}

TEST(Rdma, DevicesOfAnInterface) {
  const support::TempDir directory("rdma_devices");
  const std::filesystem::path net = directory.path();
  std::filesystem::create_directories(net / "ib1" / "device" / "infiniband" / "mlx5_0");
  std::filesystem::create_directories(net / "ib1" / "device" / "infiniband" / "mlx5_1");
  std::ofstream(net / "ib1" / "dev_port") << "1\n";
  std::filesystem::create_directories(net / "eth0" / "device");
  EXPECT_EQ(rdma_devices("ib1", net.string()), (std::vector<std::string>{"mlx5_0:2", "mlx5_1:2"}));
  EXPECT_TRUE(rdma_devices("eth0", net.string()).empty());
  EXPECT_TRUE(rdma_devices("none", net.string()).empty());
}

TEST(Rdma, GetIsRefusedWhereThereIsNone) {
  DataPlaneOptions options = plane_options("a", 1, *parse_lanes("get"));
  EXPECT_EQ(make_process_data_plane(options).status().message(),
            "get: interface lo (address 127.0.0.1) has no RDMA device; nothing else is safe on lane get: use "
            "auto or socket");
  options.lanes = *parse_lanes("auto");
  EXPECT_TRUE(make_process_data_plane(options).ok());
}

}  // namespace
}  // namespace baton::transport
