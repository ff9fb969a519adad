// Forming, deadlines, aborting of the NCCL communicator, against a fake library: what NCCL itself does on
// GPUs is not tested here (nccl_gpu_test.cc).
#include "transport/collectives/nccl_communicator.h"

#include <gmock/gmock.h>

#include <cstring>

#include "tests/transport/collectives/fake_nccl.h"
#include "tests/transport/collectives/rank_threads.h"
#include "transport/collectives/thread_ranks.h"

namespace baton {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Answer = NcclLibrary::Answer;

// Ranks with a clock, a stream and a library each, on one wire.
struct World {
  explicit World(int size) : scripts(size), devices(size) {
    for (int r = 0; r < size; ++r) devices[r] = "gpu-" + std::to_string(r);
  }
  absl::Status form() {
    const int size = static_cast<int>(scripts.size());
    ranks.resize(size), formed.resize(size), clocks.resize(size);
    auto hosts = thread_ranks(size);
    if (!hosts.ok()) return hosts.status();
    for (int r = 0; r < size; ++r) {
      streams.push_back(std::make_unique<FakeStream>(wire));
      libraries.push_back(std::make_shared<FakeNccl>(wire, *streams[r], scripts[r]));
    }
    std::vector<std::jthread> threads;
    for (int r = 0; r < size; ++r)
      threads.emplace_back([&, r, host = std::move((*hosts)[r])]() mutable {
        auto made = form_nccl({libraries[r], std::move(host), *streams[r], clocks[r], devices[r]}, in(20s));
        formed[r] = made.status();
        if (made.ok()) ranks[r] = *std::move(made);
      });
    threads.clear();
    for (const absl::Status& s : formed) RETURN_IF_ERROR(s);
    return absl::OkStatus();
  }
  // A poll of rank r's stream takes that much of its time.
  void polls_take(int r, Duration each) {
    streams[r]->on_poll = [this, r, each] { clocks[r].advance(each); };
  }
  Instant at(int r, Duration later) { return clocks[r].now() + later; }

  FakeWire wire;
  std::vector<FakeNccl::Script> scripts;
  std::vector<std::string> devices;
  std::deque<ManualClock> clocks;
  std::vector<std::unique_ptr<FakeStream>> streams;
  std::vector<std::shared_ptr<FakeNccl>> libraries;
  Ranks ranks;
  std::vector<absl::Status> formed;
};

TEST(NcclCommunicator, MovesBitsInTheOrderOfTheCalls) {
  World world(3);
  for (auto& script : world.scripts) script.polls = 3;  // every call is taken a little later
  ASSERT_TRUE(world.form().ok());
  EXPECT_EQ(world.libraries[2]->id()[7], std::byte{42}) << "rank 0's id";
  on_all(world.ranks, [&](Communicator& c) {
    EXPECT_EQ(c.lane(), "nccl");
    const Instant deadline = world.at(c.rank(), 1s);
    const auto mine = static_cast<std::byte>(10 + c.rank());
    std::array<std::byte, 3> all{};
    ASSERT_TRUE(c.all_gather({&mine, 1}, all, deadline).ok());
    std::array<float, 2> sum{float(c.rank()), 1};
    ASSERT_TRUE(c.all_reduce(sum, deadline).ok());
    std::byte told = c.rank() == 1 ? std::byte{7} : std::byte{0};
    ASSERT_TRUE(c.broadcast(1, {&told, 1}, deadline).ok());
    std::byte sent{5}, got{0};
    if (c.rank() == 0) {
      ASSERT_TRUE(c.send(2, {&sent, 1}, deadline).ok());
    }
    if (c.rank() == 2) {
      ASSERT_TRUE(c.receive(0, {&got, 1}, deadline).ok());
    }
    ASSERT_TRUE(c.barrier(in(20s)).ok());
    EXPECT_THAT(all, ::testing::ElementsAre(std::byte{10}, std::byte{11}, std::byte{12}));
    EXPECT_THAT(sum, ::testing::ElementsAre(3.0F, 3.0F));
    EXPECT_EQ(told, std::byte{7});
    EXPECT_EQ(got, c.rank() == 2 ? std::byte{5} : std::byte{0});
    EXPECT_TRUE(c.alive().ok());
  });
  world.ranks.clear();
  for (const auto& library : world.libraries) EXPECT_EQ(library->aborts, 1) << "freed once";
}

TEST(NcclCommunicator, AbortsAtTheDeadlineAndStaysBroken) {
  World world(2);
  ASSERT_TRUE(world.form().ok());
  world.polls_take(0, 10ms);
  std::array<float, 1> value{1};
  const Instant begun = world.clocks[0].now();
  const absl::Status late = world.ranks[0]->all_reduce(value, world.at(0, 1s));  // the other does not come
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_EQ(world.clocks[0].now() - begun, 1s) << "the call's own deadline";
  EXPECT_EQ(world.libraries[0]->aborts, 1);
  EXPECT_EQ(world.ranks[0]->all_reduce(value, world.at(0, 1s)), late);
  EXPECT_EQ(world.ranks[0]->barrier(world.at(0, 1s)), late);
  EXPECT_EQ(world.ranks[0]->alive(), late);
}

TEST(NcclCommunicator, TimeInWhichTheProcessDidNotRunIsNoWaiting) {
  World world(2);
  ASSERT_TRUE(world.form().ok());
  int polls = 0;
  world.streams[0]->on_poll = [&] {
    world.clocks[0].advance(++polls == 3 ? 60s : Duration(10ms));  // paused once, a minute long
    if (polls == 50) world.streams[0]->end_all();
  };
  std::array<float, 1> value{1};
  EXPECT_TRUE(world.ranks[0]->all_reduce(value, world.at(0, 1s)).ok());
  EXPECT_EQ(polls, 50);
}

TEST(NcclCommunicator, SeesARankThatDiedLongBeforeTheDeadline) {
  World world(3);
  ASSERT_TRUE(world.form().ok());
  world.polls_take(0, 10ms);
  std::array<float, 1> value{1};
  world.ranks[2].reset();  // cuts its life line
  const Instant begun = world.clocks[0].now();
  const absl::Status gone = world.ranks[0]->all_reduce(value, world.at(0, 1h));
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
  EXPECT_THAT(gone.message(), HasSubstr("rank 2"));
  EXPECT_EQ(world.ranks[0]->culprit(), 2);
  EXPECT_LE(world.clocks[0].now() - begun, 100ms);
  EXPECT_EQ(world.libraries[0]->aborts, 1);
}

TEST(NcclCommunicator, AnInterruptEndsAWait) {
  World world(2);
  ASSERT_TRUE(world.form().ok());
  std::array<float, 1> value{1};
  std::jthread pulse([&] { world.ranks[0]->interrupt(1); });  // the clock stands still: only this ends it
  const absl::Status late = world.ranks[0]->all_reduce(value, world.at(0, 1h));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_EQ(world.ranks[0]->culprit(), 1);
  EXPECT_EQ(world.libraries[0]->aborts, 1);
}

TEST(NcclCommunicator, SaysWhatNcclSaysOfAFailure) {
  for (const auto& [answer, code] : {std::pair(Answer::kRemote, absl::StatusCode::kUnavailable),
                                     std::pair(Answer::kFailed, absl::StatusCode::kInternal)}) {
    World world(2);
    ASSERT_TRUE(world.form().ok());
    std::array<float, 1> value{1};
    world.libraries[1]->script.later = answer;
    const absl::Status failed = world.ranks[1]->all_reduce(value, world.at(1, 1s));
    EXPECT_EQ(failed.code(), code) << failed;
    EXPECT_THAT(failed.message(), HasSubstr("the fake's last words"));
    EXPECT_EQ(world.libraries[1]->aborts, 1);
  }
}

TEST(NcclCommunicator, FormingHasADeadlineToo) {
  auto hosts = thread_ranks(2);
  ASSERT_TRUE(hosts.ok());
  FakeWire wire;
  std::vector<absl::Status> ends(2);
  std::vector<std::jthread> threads;
  std::vector<int> aborts(2);
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r, host = std::move((*hosts)[r])]() mutable {
      ManualClock clock;
      clock.set(SteadyClock().now());
      FakeStream stream(wire);
      FakeNccl::Script script{.polls = -1, .on_poll = [&] { clock.advance(20ms); }};
      const auto library = std::make_shared<FakeNccl>(wire, stream, script);
      ends[r] = form_nccl({library, std::move(host), stream, clock, r == 0 ? "a" : "b"}, clock.now() + 10s)
                    .status();
      aborts[r] = library->aborts;
    });
  threads.clear();
  EXPECT_THAT(aborts, ::testing::Each(1));
  // Who is first tells the other by leaving.
  for (const absl::Status& end : ends)
    EXPECT_TRUE(absl::IsDeadlineExceeded(end) || absl::IsUnavailable(end)) << end;
  EXPECT_TRUE(absl::IsDeadlineExceeded(ends[0]) || absl::IsDeadlineExceeded(ends[1])) << ends[0] << ends[1];
}

TEST(NcclCommunicator, RefusesWhatCannotWork) {
  World versions(3);
  versions.scripts[2].version = "2.21.5";
  const absl::Status other = versions.form();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition) << other;
  EXPECT_THAT(other.message(), HasSubstr("rank 2 has NCCL 2.21.5, rank 0 has 2.28.9"));

  World devices(3);
  devices.devices[2] = devices.devices[1];
  const absl::Status shared = devices.form();
  EXPECT_EQ(shared.code(), absl::StatusCode::kFailedPrecondition) << shared;
  EXPECT_THAT(shared.message(), HasSubstr("ranks 1 and 2 are on one GPU (gpu-1)"));

  World unnamed(2);
  unnamed.scripts[0].draws_ids = false;
  ASSERT_FALSE(unnamed.form().ok());
  for (const absl::Status& s : unnamed.formed) EXPECT_THAT(s.message(), HasSubstr("NCCL_SOCKET_IFNAME"));
}

}  // namespace
}  // namespace baton
