// What every lane has to do, on ranks that are threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>

#include "tests/support/seed.h"
#include "tests/transport/collectives/group_tls.h"
#include "tests/transport/collectives/rank_threads.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/rank_sum.h"
#include "transport/collectives/thread_ranks.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

struct Lane {
  const char* name;
  absl::StatusOr<Ranks> (*make)(int size);
};

class Collectives : public ::testing::TestWithParam<std::tuple<Lane, int>> {
 protected:
  int size() const { return std::get<1>(GetParam()); }
  void SetUp() override {
    if (std::string(std::get<0>(GetParam()).name) == "socket_tls" && !TestCertificates::get().there())
      GTEST_SKIP() << "the openssl command is not there or failed";
  }
  Ranks ranks() const {
    auto made = std::get<0>(GetParam()).make(size());
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : Ranks();
  }
};

std::vector<float> tree_sum(uint64_t seed, int ranks, int operation, size_t count) {
  std::vector<std::vector<float>> parts;
  std::vector<const float*> at;
  for (int r = 0; r < ranks; ++r) parts.push_back(contribution(seed, r, operation, count));
  for (const auto& p : parts) at.push_back(p.data());
  std::vector<float> sum(count);
  rank_sum(at, sum.data(), count);
  return sum;
}

TEST_P(Collectives, AllReduceHasTheBitsOfTheTreeOnEveryRank) {
  constexpr uint64_t kSeed = 3;
  Ranks group = ranks();
  const std::vector<size_t> sizes{1, 7, 1000, 4096, 65535, 65536, 65537, 262144, 262145, 600001, 1U << 21, 5};
  std::vector<std::vector<float>> want;
  for (size_t i = 0; i < sizes.size(); ++i)
    want.push_back(tree_sum(kSeed, size(), static_cast<int>(i), sizes[i]));
  on_all(group, [&](Communicator& c) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      std::vector<float> values = contribution(kSeed, c.rank(), static_cast<int>(i), sizes[i]);
      const absl::Status s = c.all_reduce(values, in(60s));
      ASSERT_TRUE(s.ok()) << s;
      ASSERT_EQ(std::memcmp(values.data(), want[i].data(), values.size() * sizeof(float)), 0)
          << "rank " << c.rank() << ", " << sizes[i] << " floats, seed " << kSeed;
    }
  });
}

TEST_P(Collectives, AllGatherPutsEveryRanksBytesInPlace) {
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    for (const size_t bytes :
         {size_t{1}, size_t{17}, size_t{4096}, size_t{3} << 19, size_t{0}, size_t{100}}) {
      const std::vector<std::byte> mine(bytes, static_cast<std::byte>(c.rank() + 1));
      std::vector<std::byte> all(bytes * c.size());
      ASSERT_TRUE(c.all_gather(mine, all, in(60s)).ok());
      for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(static_cast<size_t>(all[i]), i / bytes + 1);
    }
  });
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    for (const size_t bytes : {size_t{1}, size_t{20}, size_t{5000}, size_t{1} << 20, size_t{0}}) {
      for (int root = 0; root < c.size(); ++root) {
        const auto value = static_cast<std::byte>(root + static_cast<int>(bytes % 7) + 1);
        std::vector<std::byte> message(bytes, c.rank() == root ? value : std::byte{0});
        ASSERT_TRUE(c.broadcast(root, message, in(60s)).ok());
        for (const std::byte b : message) ASSERT_EQ(b, value);
      }
    }
  });
}

TEST_P(Collectives, MessagesRunAroundTheRing) {
  if (size() == 1) return;
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    const int next = (c.rank() + 1) % c.size();
    const int before = (c.rank() + c.size() - 1) % c.size();
    for (const size_t bytes : {size_t{8}, size_t{64000}, size_t{3}, size_t{100}}) {
      const std::vector<std::byte> out(bytes, static_cast<std::byte>(c.rank()));
      std::vector<std::byte> got(bytes, std::byte{99});
      ASSERT_TRUE(c.send(next, out, in(60s)).ok());
      ASSERT_TRUE(c.receive(before, got, in(60s)).ok());
      for (const std::byte b : got) ASSERT_EQ(b, static_cast<std::byte>(before));
    }
  });
}

TEST_P(Collectives, LongMessagesStreamToAReceiverThatIsLate) {
  if (size() == 1) return;
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    constexpr size_t kBytes = 12'000'001;
    std::vector<std::byte> bytes(kBytes);
    if (c.rank() == 0) {
      for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>(i * 31 >> 3);
      for (int r = 1; r < c.size(); ++r) ASSERT_TRUE(c.send(r, bytes, in(60s)).ok());
    } else {
      std::this_thread::sleep_for(5ms);
      ASSERT_TRUE(c.receive(0, bytes, in(60s)).ok());
      for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(bytes[i], static_cast<std::byte>(i * 31 >> 3)) << i;
    }
  });
}

TEST_P(Collectives, ASenderIsAheadOfItsReaders) {
  if (size() == 1) return;
  Ranks group = ranks();
  std::atomic<bool> sent = false;
  on_all(group, [&](Communicator& c) {
    int plan[4] = {1, 2, 3, 4};
    if (c.rank() == 0) {
      for (int i = 0; i < 100; ++i) {
        plan[0] = i;
        ASSERT_TRUE(c.broadcast(0, std::as_writable_bytes(std::span(plan)), in(60s)).ok());
      }
      sent = true;
      sent.notify_all();
      return;
    }
    sent.wait(false);  // the readers begin when all is sent
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(c.broadcast(0, std::as_writable_bytes(std::span(plan)), in(60s)).ok());
      ASSERT_EQ(plan[0], i);
    }
  });
}

TEST_P(Collectives, NobodyLeavesABarrierBeforeAllHaveCome) {
  Ranks group = ranks();
  std::atomic<int> come = 0;
  on_all(group, [&](Communicator& c) {
    for (int round = 1; round <= 200; ++round) {
      come.fetch_add(1);
      ASSERT_TRUE(c.barrier(in(60s)).ok());
      ASSERT_GE(come.load(), round * c.size());
    }
  });
}

TEST_P(Collectives, RandomOperationsAgree) {
  const uint64_t seed = support::fresh_seed();
  SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    std::mt19937_64 random(seed);  // the same on every rank
    for (int i = 0; i < 300; ++i) {
      const size_t count = 1 + random() % (i % 50 == 0 ? 300'000 : 3'000);
      const int root = static_cast<int>(random() % c.size());
      std::vector<float> values = contribution(seed, c.rank(), i, count);
      if (random() % 3 == 0) {
        ASSERT_TRUE(c.broadcast(root, std::as_writable_bytes(std::span(values)), in(60s)).ok());
        ASSERT_EQ(values, contribution(seed, root, i, count));
      } else {
        ASSERT_TRUE(c.all_reduce(values, in(60s)).ok());
        ASSERT_EQ(values, tree_sum(seed, c.size(), i, count)) << i;
      }
    }
  });
}

// --- What goes wrong

TEST_P(Collectives, AWaitEndsAtItsDeadlineNamesTheRankAndBreaksTheGroup) {
  if (size() == 1) return;
  Ranks group = ranks();
  const int late = size() - 1;  // never comes, and lives
  on_all(group, [&](Communicator& c) {
    if (c.rank() == late) return;
    std::vector<float> values(100, 1.0F);
    const Instant begin = SteadyClock().now();
    const absl::Status s = c.all_reduce(values, in(100ms));
    EXPECT_LT(SteadyClock().now() - begin, 20s);
    EXPECT_EQ(s.code(), absl::StatusCode::kDeadlineExceeded) << s;
    EXPECT_NE(s.message().find("rank " + std::to_string(late)), absl::string_view::npos) << s;
    EXPECT_EQ(c.barrier(in(60s)).code(), s.code());
    EXPECT_EQ(c.alive().code(), s.code());
  });
  std::vector<float> values(100, 1.0F);  // the late one learns it at once
  EXPECT_EQ(group[late]->all_reduce(values, in(60s)).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_P(Collectives, ARankThatLeavesIsNamedByAll) {
  if (size() == 1) return;
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    const int gone = 1;
    // Who is still in the barrier may learn there already what a faster rank found after it.
    absl::Status s = c.barrier(in(60s));
    if (c.rank() == gone) {
      group[gone].reset();
      return;
    }
    std::vector<float> values(100'000, 1.0F);
    const Instant begin = SteadyClock().now();
    if (s.ok()) s = c.all_reduce(values, in(60s));
    EXPECT_LT(SteadyClock().now() - begin, 30s);  // long before the deadline
    EXPECT_EQ(s.code(), absl::StatusCode::kUnavailable) << s;
    EXPECT_NE(s.message().find("rank 1 "), absl::string_view::npos) << s;
    EXPECT_FALSE(c.alive().ok());
  });
}

TEST_P(Collectives, TheLastMessagesOfARankThatLeftStillCount) {
  if (size() == 1) return;
  Ranks group = ranks();
  std::atomic<bool> left = false;
  on_all(group, [&](Communicator& c) {
    int value[2] = {c.rank() == 0 ? 41 : 0, 0};
    if (c.rank() == 0) {
      ASSERT_TRUE(c.broadcast(0, std::as_writable_bytes(std::span(value)), in(60s)).ok());
      value[0] = 42;
      for (int r = 1; r < c.size(); ++r)
        ASSERT_TRUE(c.send(r, std::as_bytes(std::span(value)), in(60s)).ok());
      group[0].reset();
      left = true;
      left.notify_all();
      return;
    }
    left.wait(false);
    ASSERT_TRUE(c.broadcast(0, std::as_writable_bytes(std::span(value)), in(60s)).ok());
    EXPECT_EQ(value[0], 41);
    ASSERT_TRUE(c.receive(0, std::as_writable_bytes(std::span(value)), in(60s)).ok());
    EXPECT_EQ(value[0], 42);
  });
}

TEST_P(Collectives, AMessageOfAnotherLengthBreaksTheGroup) {
  if (size() == 1) return;
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    std::byte bytes[16] = {};
    if (c.rank() == 0) {
      EXPECT_TRUE(c.send(1, std::span(bytes, 16), in(60s)).ok());
    }
    if (c.rank() != 1) return;
    EXPECT_EQ(c.receive(0, std::span(bytes, 8), in(60s)).code(), absl::StatusCode::kInternal);
    EXPECT_FALSE(c.barrier(in(60s)).ok());
  });
}

// A rank that computes does not read: its window fills, and the kernel counts that as a network that is dead.
TEST_P(Collectives, ARankThatDoesNotReadForLongIsWaitedFor) {
  if (size() != 2) return;
  Ranks group = ranks();
  on_all(group, [&](Communicator& c) {
    std::vector<std::byte> bytes(size_t{16} << 20);
    if (c.rank() == 0) {
      EXPECT_EQ(c.send(1, bytes, in(60s)), absl::OkStatus());
    } else {
      std::this_thread::sleep_for(3500ms);
      EXPECT_EQ(c.receive(0, bytes, in(60s)), absl::OkStatus());
    }
    EXPECT_EQ(c.barrier(in(60s)), absl::OkStatus());
  });
}

TEST_P(Collectives, AnotherCollectiveOnOneRankBreaksTheGroup) {
  if (size() == 1) return;
  Ranks group = ranks();
  std::atomic<int> wrong = 0;
  on_all(group, [&](Communicator& c) {
    std::vector<float> values(c.rank() == 0 ? 8 : 9);
    if (!c.all_reduce(values, in(20s)).ok()) wrong.fetch_add(1);
  });
  EXPECT_GE(wrong.load(), 1);
}

// Ranks as threads that form a group as processes do.
absl::StatusOr<Ranks> formed(int size, GroupLane lane, const transport::TlsContext* tls = nullptr) {
  ASSIGN_OR_RETURN(const std::string address, free_address());
  Ranks ranks(size);
  std::vector<absl::Status> failed(size);
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size; ++r)
      threads.emplace_back([&, r] {
        auto group = form_group({.group = "test",
                                 .incarnation = Incarnation(r == 0 ? 5 : 0),
                                 .rank = r,
                                 .size = size,
                                 .rendezvous = address,
                                 .lane = lane,
                                 .deadline = in(60s),
                                 .tls = tls,
                                 .patience = 60s});
        failed[r] = group.status();
        if (group.ok()) ranks[r] = std::move(group->communicator);
      });
  }
  for (const absl::Status& s : failed) RETURN_IF_ERROR(s);
  return ranks;
}

constexpr Lane kFormedShm{"formed_shm", [](int size) { return formed(size, GroupLane::kAuto); }};
constexpr Lane kSocket{"socket", [](int size) { return formed(size, GroupLane::kSocket); }};
constexpr Lane kSocketTls{"socket_tls",
                          [](int size) { return formed(size, GroupLane::kSocket, tls_as("worker").get()); }};
constexpr Lane kShm{"shm", [](int size) { return thread_ranks(size); }};
constexpr Lane kShmAsleep{"shm_asleep", [](int size) { return thread_ranks(size, Duration::zero()); }};

INSTANTIATE_TEST_SUITE_P(Lanes, Collectives,
                         ::testing::Combine(::testing::Values(kShm, kShmAsleep, kFormedShm, kSocket,
                                                              kSocketTls),
                                            ::testing::Values(1, 2, 3, 4, 5, 8)),
                         [](const auto& i) {
                           return std::string(std::get<0>(i.param).name) + "_" +
                                  std::to_string(std::get<1>(i.param));
                         });

}  // namespace
}  // namespace baton
