// Ranks under TLS: who is let into a group, who is told what, and what somebody between two ranks can see or
// change.
#include "tests/transport/collectives/group_tls.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>

#include "base/cat.h"
#include "tests/transport/collectives/rank_threads.h"
#include "transport/collectives/form_group.h"
#include "transport/collectives/group_frame.h"
#include "transport/collectives/rank_stream.h"
#include "transport/collectives/stream_socket.h"

namespace baton {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;

GroupOptions options(int rank, int size, const std::string& at, const transport::TlsContext* tls) {
  return {.group = "cluster/worker-0",
          .build = "model 1",
          .incarnation = Incarnation(rank == 0 ? 77 : 0),
          .rank = rank,
          .size = size,
          .rendezvous = at,
          .lane = GroupLane::kSocket,
          .deadline = in(60s),
          .tls = tls};
}

class GroupTls : public testing::Test {
 protected:
  void SetUp() override {
    if (!TestCertificates::get().there()) GTEST_SKIP() << "the openssl command is not there or failed";
    good_ = tls_as("worker");
    at_ = *free_address();
  }
  std::unique_ptr<transport::TlsContext> good_;
  std::string at_;
};

// Two ranks that do not fit: what becomes of each. Rank 0 goes on waiting until its deadline.
struct Misfits {
  const char* name;
  const transport::TlsContext *zero, *one;
  const char *told_zero, *told_one;  // a part of what each says about it
  absl::Status zero_says, one_says;
};

void meet(Misfits& m, const std::string& at) {
  std::jthread waiting([&] {
    GroupOptions o = options(0, 2, at, m.zero);
    o.deadline = in(5s);
    m.zero_says = form_group(o).status();
  });
  m.one_says = form_group(options(1, 2, at, m.one)).status();
}

TEST_F(GroupTls, WhoDoesNotFitIsToldWhyAndSoIsRankZero) {
  const auto distrusts = tls_as("worker", "other"), stranger = tls_as("stranger"),
             expired = tls_as("expired"), coordinator = tls_as("coordinator");
  const char* refused = "TLS: refused by the peer: ";
  const char* authority = "TLS: the peer's certificate: ";
  const char* late = "certificate has expired";
  const char* name = "hostname mismatch";
  const char* plain_one = "rank 0 talks under TLS (control.tls), and the caller does not";
  std::vector<Misfits> all{
      {"rank 1 with another CA", good_.get(), distrusts.get(), refused, authority},
      {"rank 0 with another CA", distrusts.get(), good_.get(), authority, refused},
      {"rank 1 of another CA", good_.get(), stranger.get(), authority, refused},
      {"rank 0 of another CA", stranger.get(), good_.get(), refused, authority},
      {"rank 1 has expired", good_.get(), expired.get(), late, refused},
      {"rank 0 has expired", expired.get(), good_.get(), refused, late},
      {"rank 1 is the coordinator", good_.get(), coordinator.get(), name, refused},
      {"rank 0 is the coordinator", coordinator.get(), good_.get(), refused, name},
      {"rank 1 is plain", good_.get(), nullptr, plain_one, plain_one},
      {"rank 0 is plain", nullptr, good_.get(), "the caller talks under TLS, and rank 0 does not",
       "it does not speak TLS, and this rank does (control.tls)"},
  };
  {
    std::vector<std::jthread> side_by_side;
    side_by_side.reserve(all.size());
    for (Misfits& m : all) side_by_side.emplace_back([&m, at = *free_address()] { meet(m, at); });
  }
  for (const Misfits& m : all) {
    SCOPED_TRACE(m.name);
    const bool plain = m.zero == nullptr || m.one == nullptr;
    const char* advice = plain ? kSameTls : "that is in date and carries control.tls.worker.name";
    EXPECT_EQ(m.one_says.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(m.one_says.message()), AllOf(HasSubstr(m.told_one), HasSubstr(advice)));
    EXPECT_EQ(m.zero_says.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(std::string(m.zero_says.message()),
                AllOf(HasSubstr("no word from rank 1"), HasSubstr(m.told_zero), HasSubstr(advice)));
  }
}

TEST_F(GroupTls, WhoIsRefusedDoesNotKeepTheGroupFromForming) {
  absl::Status zero;
  std::jthread first([&] { zero = form_group(options(0, 2, at_, good_.get())).status(); });
  const auto stranger = tls_as("stranger", "other");
  EXPECT_FALSE(form_group(options(1, 2, at_, stranger.get())).ok());
  EXPECT_FALSE(form_group(options(1, 2, at_, nullptr)).ok());
  const OwnedFd silent = *connect_to(at_, in(60s));
  RankStream half(*connect_to(at_, in(60s)), good_.get(), RankStream::Side::kConnects);
  ASSERT_TRUE(half.meet().ok());  // its first words, and no more
  auto one = form_group(options(1, 2, at_, good_.get()));
  EXPECT_TRUE(one.ok()) << one.status();
  first.join();
  EXPECT_TRUE(zero.ok()) << zero;
}

// Ranks above 0 are called by others as well: a stranger there, with the wrong certificate, none or no words.
TEST_F(GroupTls, WhoCallsARankIsVerifiedToo) {
  std::vector<std::jthread> ranks;
  std::array<absl::Status, 2> formed;
  for (const int r : {0, 1})
    ranks.emplace_back([&, r] { formed[r] = form_group(options(r, 3, at_, good_.get())).status(); });
  // Rank 2, by hand up to where it would call rank 1.
  const GroupOptions two = options(2, 3, at_, good_.get());
  RankStream to_zero(*connect_to(at_, in(60s)), good_.get(), RankStream::Side::kConnects);
  std::vector<std::string> hello{"baton-group/1", two.group, two.build, "0", "2", "3", "socket", "", "1"};
  ASSERT_TRUE(GroupFrame(hello).write(to_zero, in(60s)).ok());
  const auto answer = GroupFrame::read(to_zero, in(60s));
  ASSERT_TRUE(answer.ok() && answer->words().size() == 6) << answer.status();
  const std::string one = answer->words()[4];
  const GroupFrame words({answer->words()[2], "2"});  // as if it had heard the words of the group
  RankStream plain(*connect_to(one, in(60s)));
  ASSERT_TRUE(words.write(plain, in(60s)).ok());
  std::array<std::byte, 1> byte;
  EXPECT_FALSE(plain.read_exactly(byte, in(5s)).ok());
  for (const auto& bad : {tls_as("stranger", "other"), tls_as("coordinator"), tls_as("expired")}) {
    RankStream stream(*connect_to(one, in(60s)), bad.get(), RankStream::Side::kConnects);
    (void)words.write(stream, in(5s));
    EXPECT_FALSE(stream.read_exactly(byte, in(5s)).ok());
  }
  RankStream good(*connect_to(one, in(60s)), good_.get(), RankStream::Side::kConnects);
  EXPECT_TRUE(words.write(good, in(60s)).ok());
  // All three are there: rank 2 meets them as SocketCommunicator does, with an empty message of kind 1.
  std::array<std::byte, 16> barrier{std::byte{1}};
  ASSERT_TRUE(to_zero.write_all(barrier, in(60s)).ok());
  ASSERT_TRUE(good.write_all(barrier, in(60s)).ok());
  for (auto& rank : ranks) rank.join();
  EXPECT_TRUE(formed[0].ok() && formed[1].ok()) << formed[0] << formed[1];
}

TEST_F(GroupTls, AHandshakeThatNobodyAnswersEndsAtTheDeadline) {
  const OwnedFd listener = *listen_at(at_);  // the kernel takes the connection, nobody says a word
  GroupOptions o = options(1, 2, at_, good_.get());
  o.deadline = in(300ms);
  EXPECT_EQ(form_group(o).status().code(), absl::StatusCode::kDeadlineExceeded);
}

// Somebody on the way between rank 1 and rank 0, who sees every byte and may change one.
class Relay {
 public:
  explicit Relay(std::string to) : to_(std::move(to)), listener_(*listen_at("127.0.0.1:0")) {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  std::string address() const { return host_and_port("127.0.0.1", local_port(listener_.get())); }
  void change_next() { change_ = true; }
  // After the ranks have ended.
  std::string seen() {
    thread_ = {};
    return seen_;
  }

 private:
  void run(const std::stop_token& stop) {
    if (!wait_for(listener_.get(), POLLIN, in(60s)).ok()) return;
    std::array<OwnedFd, 2> ends{*accept_now(listener_.get()), *connect_to(to_, in(60s))};
    std::vector<char> bytes(1 << 16);
    while (!stop.stop_requested()) {
      std::array<pollfd, 2> entries{pollfd{ends[0].get(), POLLIN, 0}, pollfd{ends[1].get(), POLLIN, 0}};
      ::poll(entries.data(), entries.size(), 20);
      for (const int from : {0, 1}) {
        const ssize_t n = ::recv(ends[from].get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (n == 0) return;
        if (n < 0) continue;
        if (change_.exchange(false)) bytes[n / 2] ^= 1;
        seen_.append(bytes.data(), static_cast<size_t>(n));
        RankStream to(*ends[1 - from].duplicate());
        if (!to.write_all(std::as_bytes(std::span(bytes.data(), n)), in(60s)).ok()) return;
      }
    }
  }

  const std::string to_;
  const OwnedFd listener_;
  std::string seen_;
  std::atomic<bool> change_ = false;
  std::jthread thread_;
};

// A group of two whose connection goes through a relay.
struct Relayed {
  Relayed(const std::string& at, const transport::TlsContext* tls) : relay(at), ranks(2) {
    std::vector<std::jthread> threads;
    for (const int r : {0, 1})
      threads.emplace_back([&, r] {
        auto group = form_group(options(r, 2, r == 0 ? at : relay.address(), tls));
        EXPECT_TRUE(group.ok()) << group.status();
        if (group.ok()) ranks[r] = std::move(group->communicator);
      });
  }
  bool formed() const { return ranks[0] != nullptr && ranks[1] != nullptr; }
  Relay relay;
  Ranks ranks;
};

std::string seen_of(const std::string& at, const transport::TlsContext* tls, const std::string& secret) {
  Relayed group(at, tls);
  if (!group.formed()) return "";
  on_all(group.ranks, [&](Communicator& c) {
    std::string text = c.rank() == 0 ? secret : std::string(secret.size(), ' ');
    EXPECT_TRUE(c.broadcast(0, std::as_writable_bytes(std::span(text)), in(60s)).ok());
    EXPECT_EQ(text, secret);
    EXPECT_TRUE(c.barrier(in(60s)).ok());
  });
  group.ranks.clear();
  return group.relay.seen();
}

TEST_F(GroupTls, TheWireShowsNothing) {
  const std::string secret = "the content of somebody's conversation";
  EXPECT_THAT(seen_of(at_, nullptr, secret), HasSubstr(secret));  // the relay does see
  const std::string seen = seen_of(*free_address(), good_.get(), secret);
  EXPECT_GT(seen.size(), secret.size());
  for (const std::string& words : {secret, std::string("cluster/worker-0"), std::string("model 1")})
    EXPECT_EQ(seen.find(words), std::string::npos) << words;
}

TEST_F(GroupTls, AChangedByteBreaksTheGroupAndReachesNobody) {
  Relayed group(at_, good_.get());
  ASSERT_TRUE(group.formed());
  group.relay.change_next();
  std::atomic<int> wrong = 0;
  on_all(group.ranks, [&](Communicator& c) {
    std::vector<float> values(4096, 1.0F);
    const absl::Status s = c.all_reduce(values, in(20s));
    wrong += s.ok() ? 0 : 1;
    for (const float v : values) ASSERT_TRUE(v == 1.0F || v == 2.0F);
    if (s.ok()) return;
    EXPECT_THAT(std::string(s.message()), HasSubstr("of the group"));
  });
  EXPECT_GE(wrong.load(), 1);
}

}  // namespace
}  // namespace baton
