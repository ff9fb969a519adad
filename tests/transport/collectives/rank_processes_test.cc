// Ranks as processes: forming a group, losing one of it, being refused; between hosts that are network
// namespaces.
#include "tests/transport/collectives/rank_processes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/transport/collectives/group_tls.h"
#include "transport/collectives/group_door.h"
#include "transport/collectives/rank_sum.h"
#include "transport/collectives/socket_communicator.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using namespace std::chrono_literals;
using Say = RankProcess::Say;

GroupOptions options(int rank, int size, const std::string& rendezvous) {
  return {.group = "cluster/worker-0",
          .build = "model 1",
          .incarnation = Incarnation(rank == 0 ? 77 : 0),
          .rank = rank,
          .size = size,
          .rendezvous = rendezvous,
          .deadline = in(60s),
          .patience = 60s};  // as all calls here
}

std::string own_name(const char* what) { return cat("unix:@baton-test-", what, "-", ::getpid()); }

bool reduce_is_the_tree(Communicator& c, int operation, size_t count) {
  std::vector<std::vector<float>> parts;
  std::vector<const float*> at;
  for (int r = 0; r < c.size(); ++r) parts.push_back(contribution(1, r, operation, count));
  for (const auto& p : parts) at.push_back(p.data());
  std::vector<float> want(count);
  rank_sum(at, want.data(), count);
  return c.all_reduce(parts[c.rank()], in(60s)).ok() && parts[c.rank()] == want;
}

// Says the lane and incarnation, then how many of some sums have the bits of the tree.
void check_sums(const GroupOptions& o, const Say& say) {
  auto group = form_group(o);
  if (!group.ok()) return say(group.status().ToString());
  int right = 0;
  int operation = 0;
  for (const size_t count : {size_t{1}, size_t{4096}, size_t{99'999}, size_t{1} << 21})
    right += reduce_is_the_tree(*group->communicator, ++operation, count) ? 1 : 0;
  say(cat(group->communicator->lane(), " ", group->incarnation.value(), " ", right));
}

// Sums for ever; at the end says why, and how long the last call took.
void sum_until_it_fails(const GroupOptions& o, const Say& say, Duration deadline = 60s) {
  auto group = form_group(o);
  if (!group.ok()) return say(group.status().ToString());
  say("formed");
  std::vector<float> values(20'000, 1.0F);
  for (;;) {
    const Instant begin = SteadyClock().now();
    const absl::Status s = group->communicator->all_reduce(values, in(deadline));
    if (s.ok()) continue;
    say(s.ToString());
    return say(cat(to_seconds(SteadyClock().now() - begin)));
  }
}

struct Processes {
  std::vector<std::unique_ptr<RankProcess>> ranks;
  explicit Processes(int size, const std::function<void(int, const Say&)>& body,
                     const NetworkHosts* hosts = nullptr) {
    for (int r = size - 1; r >= 0; --r)  // rank 0 comes last: the others wait for it
      ranks.insert(ranks.begin(),
                   std::make_unique<RankProcess>([&, r](const Say& say) { body(r, say); }, hosts,
                                                 hosts == nullptr ? 0 : r % hosts->size()));
  }
};

class Sizes : public ::testing::TestWithParam<int> {};

TEST_P(Sizes, ProcessesOfOneHostShareMemoryAndHaveTheBitsOfTheTree) {
  const std::string at = own_name("sums");
  Processes all(GetParam(), [&](int r, const Say& say) { check_sums(options(r, GetParam(), at), say); });
  for (auto& rank : all.ranks) EXPECT_EQ(rank->line(), "shm 77 4");
}

TEST_P(Sizes, ProcessesOverSocketsHaveTheBitsOfTheTree) {
  const std::string at = *free_address();
  Processes all(GetParam(), [&](int r, const Say& say) {
    GroupOptions o = options(r, GetParam(), at);
    o.lane = GroupLane::kSocket;
    check_sums(o, say);
  });
  for (auto& rank : all.ranks) EXPECT_EQ(rank->line(), "socket 77 4");
}

INSTANTIATE_TEST_SUITE_P(Ranks, Sizes, ::testing::Values(2, 3, 4, 5, 8));

// shm, socket, socket-tls.
class Lanes : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "socket-tls") return;
    tls_ = tls_as("worker");
    if (tls_ == nullptr) GTEST_SKIP() << "the openssl command is not there or failed";
  }
  GroupOptions of(int rank, int size, const std::string& at) const {
    GroupOptions o = options(rank, size, at);
    o.lane = GetParam() == "shm" ? GroupLane::kShm : GroupLane::kSocket;
    o.tls = tls_.get();
    return o;
  }
  std::unique_ptr<transport::TlsContext> tls_;
};

TEST_P(Lanes, AKilledRankIsNamedByAllLongBeforeTheDeadline) {
  for (const int victim : {0, 1, 2}) {
    const std::string at = *free_address();
    Processes all(3, [&](int r, const Say& say) { sum_until_it_fails(of(r, 3, at), say); });
    for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
    std::this_thread::sleep_for(20ms);
    all.ranks[victim]->signal(SIGKILL);
    for (int r = 0; r < 3; ++r) {
      if (r == victim) continue;
      const std::string why = all.ranks[r]->line();
      EXPECT_TRUE(why.starts_with("UNAVAILABLE: rank " + std::to_string(victim) + " of the group is gone"))
          << why;
      const double seconds = std::stod(all.ranks[r]->line());
      std::printf("rank %d saw the death of %d after %.3f s\n", r, victim, seconds);
      EXPECT_LT(seconds, 30);
    }
  }
}

TEST_P(Lanes, AStoppedRankCostsTheDeadlineAndIsNamed) {
  const std::string at = *free_address();
  Processes all(3,
                [&](int r, const Say& say) { sum_until_it_fails(of(r, 3, at), say, r == 0 ? 300ms : 10s); });
  for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
  std::this_thread::sleep_for(20ms);
  all.ranks[1]->signal(SIGSTOP);
  for (const int r : {0, 2}) {
    const std::string why = all.ranks[r]->line();
    EXPECT_TRUE(why.starts_with("DEADLINE_EXCEEDED: rank 1 of the group did not come")) << why;
  }
  all.ranks[1]->signal(SIGCONT);  // too late: the group is broken for it too
  EXPECT_NE(all.ranks[1]->line(), "");
}

// Whatever it was doing then: here it has not begun to sleep.
TEST_P(Lanes, ARankThatDidNotRunItselfGoesOnWaiting) {
  const std::string at = *free_address();
  Processes both(2, [&](int r, const Say& say) {
    GroupOptions o = of(r, 2, at);
    o.spin = 1s;
    sum_until_it_fails(o, say, 2s);
  });
  for (auto& rank : both.ranks) ASSERT_EQ(rank->line(), "formed");
  std::this_thread::sleep_for(20ms);
  both.ranks[0]->signal(SIGSTOP);
  std::this_thread::sleep_for(50ms);
  both.ranks[1]->signal(SIGSTOP);
  std::this_thread::sleep_for(3s);
  both.ranks[1]->signal(SIGCONT);
  std::this_thread::sleep_for(100ms);
  both.ranks[0]->signal(SIGCONT);
  std::this_thread::sleep_for(100ms);
  both.ranks[0]->signal(SIGKILL);
  const std::string why = both.ranks[1]->line();
  EXPECT_TRUE(why.starts_with("UNAVAILABLE: rank 0 of the group is gone")) << why;
}

TEST_P(Lanes, AGroupFormsAgainWithTheRankThatWasStartedAgain) {
  const std::string at = *free_address();
  const auto live = [&](int r, const Say& say) {
    for (uint64_t life = 1;; ++life) {
      GroupOptions o = of(r, 3, at);
      o.incarnation = Incarnation(r == 0 ? life : 0);
      sum_until_it_fails(o, say);
    }
  };
  Processes all(3, live);
  for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
  for (int round = 0; round < 3; ++round) {
    all.ranks[1] = std::make_unique<RankProcess>([&](const Say& say) { live(1, say); });  // kills the old one
    for (const int r : {0, 2}) {
      EXPECT_NE(all.ranks[r]->line(), "");  // why
      EXPECT_NE(all.ranks[r]->line(), "");  // seconds
    }
    for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed") << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Lanes, Lanes, ::testing::Values("shm", "socket", "socket-tls"),
                         [](const auto& i) { return i.param == "socket-tls" ? "socket_tls" : i.param; });

TEST(FormGroup, WhoDoesNotFitIsRefusedWithTheReasonAndTheGroupForms) {
  const std::string at = own_name("refuse");
  const auto form = [](const GroupOptions& o) {
    return [o](const Say& say) {
      auto group = form_group(o);
      say(group.ok() ? "formed" : std::string(group.status().message()));
      std::this_thread::sleep_for(100ms);
    };
  };
  RankProcess zero(form(options(0, 2, at)));
  const auto refused = [&](const std::function<void(GroupOptions&)>& change) {
    GroupOptions o = options(1, 2, at);
    change(o);
    return RankProcess(form(o)).line();
  };
  using testing::HasSubstr;
  EXPECT_THAT(refused([](auto& o) { o.group = "cluster/worker-1"; }), HasSubstr("the group differs"));
  EXPECT_THAT(refused([](auto& o) { o.size = 3; }),
              HasSubstr("the number of ranks differs: rank 0 has 2, you have 3"));
  EXPECT_THAT(refused([](auto& o) { o.incarnation = Incarnation(76); }),
              HasSubstr("the incarnation differs"));
  EXPECT_THAT(refused([](auto& o) { o.build = "model 2"; }), HasSubstr("the build differs"));
  EXPECT_THAT(refused([](auto& o) { o.lane = GroupLane::kShm; }), HasSubstr("the lane asked for differs"));
  RankProcess one(form(options(1, 2, at)));
  EXPECT_EQ(one.line(), "formed");
  EXPECT_EQ(zero.line(), "formed");
}

TEST(FormGroup, BytesFromElsewhereDoNotDisturb) {
  const std::string at = *free_address();
  RankProcess zero([&](const Say& say) { check_sums(options(0, 2, at), say); });
  auto stranger = connect_to(at, in(60s));
  ASSERT_TRUE(stranger.ok());
  const std::string text(5000, 'G');
  RankStream to_zero(*std::move(stranger));
  ASSERT_TRUE(to_zero.write_all(std::as_bytes(std::span(text)), in(60s)).ok());
  auto silent = connect_to(at, in(60s));
  ASSERT_TRUE(silent.ok());
  RankProcess one([&](const Say& say) { check_sums(options(1, 2, at), say); });
  EXPECT_EQ(one.line(), "shm 77 4");
  EXPECT_EQ(zero.line(), "shm 77 4");
}

// What a rank does before it is in the group: comes to rank 0 and hears its answer.
struct HalfWay {
  RankStream to_zero;
  OwnedFd listener;
  std::vector<std::string> answer;
};

HalfWay come_and_hear(const GroupOptions& o, const std::string& own_host) {
  HalfWay out;
  out.to_zero = RankStream(*connect_to(o.rendezvous, o.deadline), o.tls, RankStream::Side::kConnects);
  out.listener = *listen_at(host_and_port(own_host, 0));
  if (!group_hello(o, local_port(out.listener.get())).write(out.to_zero, o.deadline).ok()) std::abort();
  out.answer = GroupFrame::read(out.to_zero, o.deadline)->words();
  return out;
}

TEST_P(Lanes, ARankThatDiesWhileTheGroupFormsMayComeAgain) {
  for (const int victim : {1, 2}) {
    const std::string at = *free_address();
    RankProcess half([&](const Say& say) { say(come_and_hear(of(victim, 3, at), "127.0.0.1").answer[0]); });
    std::vector<std::unique_ptr<RankProcess>> rest;
    for (const int r : {0, 3 - victim})
      rest.push_back(
          std::make_unique<RankProcess>([&, r](const Say& say) { check_sums(of(r, 3, at), say); }));
    const std::string lane = half.line();
    ASSERT_EQ(lane, GetParam() == "shm" ? "shm" : "socket");
    ASSERT_EQ(half.line(), "");  // it has ended
    rest.push_back(
        std::make_unique<RankProcess>([&](const Say& say) { check_sums(of(victim, 3, at), say); }));
    for (auto& rank : rest) EXPECT_EQ(rank->line(), GetParam() + " 77 4");
  }
}

TEST_P(Lanes, APartOfAGroupIsNotWaitedForWhenTheGroupHasLostARank) {
  const std::string at = *free_address(), part = *free_address();
  Processes all(3, [&](int r, const Say& say) {
    auto world = form_group(of(r, 3, at));
    if (!world.ok()) return say(world.status().ToString());
    std::byte word{};
    if (r == 2) {  // when the others have the group
      for (const int other : {0, 1})
        if (!world->communicator->receive(other, {&word, 1}, in(60s)).ok()) return say("receive");
      return say("leaves");
    }
    if (!world->communicator->send(2, {&word, 1}, in(60s)).ok()) return say("send");
    GroupOptions o = of(r, 3, part);
    o.within = world->communicator.get();
    say(form_group(o).status().ToString());
  });
  EXPECT_EQ(all.ranks[2]->line(), "leaves");
  for (const int r : {0, 1}) EXPECT_THAT(all.ranks[r]->line(), testing::StartsWith("UNAVAILABLE: rank "));
}

TEST(FormGroup, WhoSaysNothingToARankDoesNotKeepItFromTheGroup) {
  const std::string at = *free_address();
  const auto of = [&](int rank) {
    GroupOptions o = options(rank, 3, at);
    o.lane = GroupLane::kSocket;
    return o;
  };
  std::vector<std::unique_ptr<RankProcess>> ranks;
  for (const int r : {0, 1})
    ranks.push_back(std::make_unique<RankProcess>([&, r](const Say& say) {
      auto group = form_group(of(r));
      say(group.ok() ? "formed" : group.status().ToString());
    }));
  HalfWay two = come_and_hear(of(2), "127.0.0.1");
  ASSERT_EQ(two.answer.size(), 6U);
  const OwnedFd silent = *connect_to(two.answer[4], in(60s));
  std::vector<RankStream> streams(3);
  streams[1] = RankStream(*connect_to(two.answer[4], in(60s)));
  ASSERT_TRUE(GroupFrame({two.answer[2], "2"}).write(streams[1], in(60s)).ok());
  streams[0] = std::move(two.to_zero);
  EXPECT_TRUE(socket_communicator(2, std::move(streams), {})->barrier(in(60s)).ok());
  for (auto& rank : ranks) EXPECT_EQ(rank->line(), "formed");
}

TEST(FormGroup, RankZeroNamesTheRanksThatDidNotCome) {
  GroupOptions o = options(0, 4, own_name("missing"));
  o.deadline = in(150ms);
  const auto group = form_group(o);
  EXPECT_EQ(group.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(group.status().message()), testing::HasSubstr("no word from rank 1, 2, 3"));
}

TEST(FormGroup, WithoutRankZeroTheOthersGiveUpAtTheirDeadline) {
  GroupOptions o = options(1, 2, own_name("nobody"));
  o.deadline = in(150ms);
  EXPECT_EQ(form_group(o).status().code(), absl::StatusCode::kDeadlineExceeded);
}

// --- Two hosts

class TwoHosts : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = NetworkHosts::make(2);
    if (!made.ok()) GTEST_SKIP() << made.status();
    hosts = *std::move(made);
    at = hosts->address(0) + ":7100";
    tls = tls_as("worker");
  }
  // Without the openssl command plain ones only.
  std::vector<const transport::TlsContext*> ways() const {
    return tls == nullptr ? std::vector<const transport::TlsContext*>{nullptr}
                          : std::vector<const transport::TlsContext*>{nullptr, tls.get()};
  }
  GroupOptions of(int rank, int size, const transport::TlsContext* with) const {
    GroupOptions o = options(rank, size, at);
    o.tls = with;
    return o;
  }
  std::unique_ptr<NetworkHosts> hosts;
  std::unique_ptr<transport::TlsContext> tls;
  std::string at;
};

TEST_F(TwoHosts, SocketsAreUsedBetweenHostsAndTheBitsAreTheSame) {
  for (const transport::TlsContext* with : ways())
    for (const int size : {2, 4, 5}) {
      Processes all(size, [&](int r, const Say& say) { check_sums(of(r, size, with), say); }, hosts.get());
      for (auto& rank : all.ranks)
        EXPECT_EQ(rank->line(), with == nullptr ? "socket 77 4" : "socket-tls 77 4");
    }
}

TEST_F(TwoHosts, SharedMemoryIsRefusedBetweenHosts) {
  Processes all(
      2,
      [&](int r, const Say& say) {
        GroupOptions o = options(r, 2, at);
        o.lane = GroupLane::kShm;
        check_sums(o, say);
      },
      hosts.get());
  for (auto& rank : all.ranks)
    EXPECT_THAT(rank->line(), testing::HasSubstr("the ranks are on several hosts"));
}

TEST_F(TwoHosts, ACutLinkEndsTheWaitByItsDeadline) {
  Processes all(
      2, [&](int r, const Say& say) { sum_until_it_fails(options(r, 2, at), say, 500ms); }, hosts.get());
  for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
  ASSERT_TRUE(hosts->cut(0, 1).ok());
  for (int r = 0; r < 2; ++r) {
    const std::string why = all.ranks[r]->line();
    // What rank 1 says still comes through: whoever is first tells who is missing.
    EXPECT_THAT(why, testing::AnyOf(testing::HasSubstr(cat("rank ", 1 - r, " of the group")),
                                    testing::HasSubstr("found by rank 1")));
    std::printf("rank %d: %s after %s s\n", r, why.c_str(), all.ranks[r]->line().c_str());
  }
}

TEST_F(TwoHosts, AnIdleRankFindsThatItsNetworkIsDead) {
  const auto idle = [&](int r, const Say& say) {
    GroupOptions o = of(r, 2, nullptr);
    o.patience = 3s;
    auto group = form_group(o);
    say(group.ok() ? "formed" : group.status().ToString());
    absl::Status alive = group.status();
    for (; alive.ok(); std::this_thread::sleep_for(20ms)) alive = group->communicator->alive();
    say(alive.ToString());
  };
  Processes all(2, idle, hosts.get());
  for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
  const Instant begin = SteadyClock().now();
  ASSERT_TRUE(hosts->cut(0, 1).ok() && hosts->cut(1, 0).ok());
  for (int r = 0; r < 2; ++r) {
    EXPECT_THAT(all.ranks[r]->line(), testing::HasSubstr(cat("rank ", 1 - r, " of the group is gone")));
    std::printf("rank %d saw it after %.1f s\n", r, to_seconds(SteadyClock().now() - begin));
  }
}

TEST_F(TwoHosts, AKilledRankOnTheOtherHostIsSeen) {
  for (const transport::TlsContext* with : ways()) {
    Processes all(4, [&](int r, const Say& say) { sum_until_it_fails(of(r, 4, with), say); }, hosts.get());
    for (auto& rank : all.ranks) ASSERT_EQ(rank->line(), "formed");
    all.ranks[3]->signal(SIGKILL);
    for (int r = 0; r < 3; ++r) {
      EXPECT_THAT(all.ranks[r]->line(), testing::HasSubstr("rank 3 of the group is gone"));
      std::printf("rank %d saw it after %s s\n", r, all.ranks[r]->line().c_str());
    }
  }
}

}  // namespace
}  // namespace baton
