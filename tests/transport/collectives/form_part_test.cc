// Parts of a group, on ranks that are threads.
#include "transport/collectives/form_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/transport/collectives/rank_threads.h"

namespace baton {
namespace {

using namespace std::chrono_literals;

// Between the moment when a rank says where it listens and the one when it is called there, somebody else on
// the machine wants that port.
class WithThief final : public Communicator {
 public:
  explicit WithThief(Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::string lane() const override { return inner_.lane(); }
  absl::Status all_reduce(std::span<float> v, Instant d) override { return inner_.all_reduce(v, d); }
  absl::Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all, Instant d) override {
    const std::string address(reinterpret_cast<const char*>(mine.data()));
    if (!address.empty()) took = listen_at(address);
    return inner_.all_gather(mine, all, d);
  }
  absl::Status broadcast(int root, std::span<std::byte> b, Instant d) override {
    return inner_.broadcast(root, b, d);
  }
  absl::Status send(int to, std::span<const std::byte> b, Instant d) override {
    return inner_.send(to, b, d);
  }
  absl::Status receive(int from, std::span<std::byte> b, Instant d) override {
    return inner_.receive(from, b, d);
  }
  absl::Status barrier(Instant d) override { return inner_.barrier(d); }
  absl::Status alive() override { return inner_.alive(); }

  absl::StatusOr<OwnedFd> took = absl::UnknownError("no rank said where it listens");

 private:
  Communicator& inner_;
};

// A group of four over sockets on `address`, and what each rank makes of it.
void on_four(const std::string& address, const std::function<void(Group&)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 4; ++rank)
    threads.emplace_back([&, rank] {
      auto group = form_group({.group = "test",
                               .incarnation = Incarnation(rank == 0 ? 5 : 0),
                               .rank = rank,
                               .size = 4,
                               .rendezvous = address,
                               .deadline = in(60s)});
      ASSERT_TRUE(group.ok()) << group.status();
      body(*group);
    });
}

class Parts : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Places, Parts, ::testing::Values("tcp", "unix"),
                         [](const auto& i) { return i.param; });

TEST_P(Parts, NobodyElseGetsThePlaceWhereTheyMeet) {
  const std::string address =
      GetParam() == "tcp" ? *free_address() : cat("unix:@baton-test-parts-", ::getpid());
  on_four(address, [&](Group& group) {
    WithThief whole(*group.communicator);
    EXPECT_EQ(group.host.empty(), GetParam() == "unix");
    const int first = whole.rank() / 2 * 2;
    auto half = form_part(whole, {.name = cat("half-", first), .first = first, .size = 2, .host = group.host},
                          {.group = "test", .incarnation = group.incarnation, .deadline = in(10s)});
    ASSERT_TRUE(half.ok()) << half.status();
    EXPECT_EQ(half->communicator->size(), 2);
    EXPECT_EQ(half->communicator->rank(), whole.rank() % 2);
    EXPECT_FALSE(whole.took.ok()) << "rank " << whole.rank() << " does not hold the place that it named";
    std::vector<float> one{static_cast<float>(1 + whole.rank())};
    ASSERT_TRUE(half->communicator->all_reduce(one, in(60s)).ok());
    EXPECT_EQ(one[0], first == 0 ? 3 : 7) << "ranks of the other half are in it";
    // A rank that left while the other half still meets would end the group that they meet in.
    EXPECT_EQ(whole.barrier(in(60s)), absl::OkStatus());
  });
}

}  // namespace
}  // namespace baton
