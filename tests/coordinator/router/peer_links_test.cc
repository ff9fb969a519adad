#include "coordinator/router/peer_links.h"

#include <gtest/gtest.h>

namespace baton::coordinator {
namespace {

using std::chrono::seconds;
using State = PeerLink::State;

const WorkerRef kP{"p0", Incarnation(5)};
const WorkerRef kD{"d0", Incarnation(6)};
const Instant kStart{};

PeerReport up(const WorkerRef& peer, double rate, Duration latency) {
  return {.peer = peer, .connected = true, .lane = "am", .bytes_per_second = rate, .latency = latency};
}

TEST(PeerLinks, IsUpWhenBothEndsSaySo) {
  PeerLinks links(seconds(5), seconds(3));
  EXPECT_EQ(links.link(kP, kD).state, State::kAbsent);
  links.expect(kP, kD, kStart);
  EXPECT_EQ(links.link(kP, kD).state, State::kPending);
  EXPECT_TRUE(links.any_pending());
  EXPECT_TRUE(links.report(kP, up(kD, 2e9, Duration(10)), kStart));
  EXPECT_EQ(links.link(kD, kP).state, State::kPending);
  EXPECT_TRUE(links.report(kD, up(kP, 1e9, Duration(30)), kStart));
  const PeerLink link = links.link(kP, kD);
  EXPECT_EQ(link.state, State::kUp);
  EXPECT_EQ(link.lane, "am");
  EXPECT_EQ(link.bytes_per_second, 1e9);
  EXPECT_EQ(link.latency, Duration(30));
  EXPECT_FALSE(links.any_pending());
  EXPECT_EQ(links.next_deadline(), kNever);
}

TEST(PeerLinks, AnEndThatHasNotMeasuredDoesNotCount) {
  PeerLinks links(seconds(5), seconds(3));
  links.expect(kP, kD, kStart);
  links.report(kP, up(kD, 0, {}), kStart);
  links.report(kD, up(kP, 3e9, {}), kStart);
  EXPECT_EQ(links.link(kP, kD).bytes_per_second, 3e9);
}

TEST(PeerLinks, SilenceIsDownAndAskedAgain) {
  PeerLinks links(seconds(5), seconds(3));
  links.expect(kP, kD, kStart);
  EXPECT_EQ(links.next_deadline(), kStart + seconds(5));
  EXPECT_TRUE(links.on_tick(kStart + seconds(4)).empty());
  EXPECT_EQ(links.link(kP, kD).state, State::kPending);
  EXPECT_EQ(links.on_tick(kStart + seconds(5)).size(), 1u);
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
  EXPECT_FALSE(links.any_pending());
  EXPECT_EQ(links.next_deadline(), kStart + seconds(8));
  EXPECT_EQ(links.on_tick(kStart + seconds(8)), (std::vector{PeerLinks::Pair{kD, kP}}));

  links.report(kP, up(kD, 1e9, {}), kStart + seconds(8));  // late, but it came
  links.report(kD, up(kP, 1e9, {}), kStart + seconds(8));
  EXPECT_EQ(links.link(kP, kD).state, State::kUp);
  EXPECT_EQ(links.next_deadline(), kNever);
}

TEST(PeerLinks, AWordOfEitherEndBringsItDown) {
  PeerLinks links(seconds(5), seconds(3));
  const auto both_up = [&] {
    links.report(kP, up(kD, 1e9, {}), kStart);
    links.report(kD, up(kP, 1e9, {}), kStart);
  };
  links.expect(kP, kD, kStart);
  both_up();
  links.mark_down(kD, kP, kStart);
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
  EXPECT_EQ(links.next_deadline(), kStart + seconds(3));
  links.report(kP, up(kD, 1e9, {}), kStart);
  EXPECT_EQ(links.link(kP, kD).state, State::kPending);  // the other end has not said so again
  both_up();
  EXPECT_EQ(links.link(kP, kD).state, State::kUp);
  links.report(kD, {.peer = kP, .connected = false, .error = "refused"}, kStart);
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
}

TEST(PeerLinks, KnowsOnlyPairsThatWereAskedFor) {
  PeerLinks links(seconds(5), seconds(3));
  EXPECT_FALSE(links.report(kP, up(kD, 1e9, {}), kStart));
  links.expect(kP, kD, kStart);
  const WorkerRef former{"d0", Incarnation(5)};
  EXPECT_FALSE(links.report(kP, up(former, 1e9, {}), kStart));
  links.forget(kD);
  EXPECT_EQ(links.link(kP, kD).state, State::kAbsent);
  EXPECT_TRUE(links.empty());
}

}  // namespace
}  // namespace baton::coordinator
