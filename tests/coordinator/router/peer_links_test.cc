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
  PeerLinks links;
  EXPECT_EQ(links.link(kP, kD).state, State::kAbsent);
  links.expect(kP, kD, kStart + seconds(5));
  EXPECT_EQ(links.link(kP, kD).state, State::kPending);
  EXPECT_TRUE(links.report(kP, up(kD, 2e9, Duration(10))));
  EXPECT_EQ(links.link(kD, kP).state, State::kPending);
  EXPECT_TRUE(links.report(kD, up(kP, 1e9, Duration(30))));
  const PeerLink link = links.link(kP, kD);
  EXPECT_EQ(link.state, State::kUp);
  EXPECT_EQ(link.lane, "am");
  EXPECT_EQ(link.bytes_per_second, 1e9);
  EXPECT_EQ(link.latency, Duration(30));
  EXPECT_EQ(links.next_deadline(), kNever);
}

TEST(PeerLinks, AnEndThatHasNotMeasuredDoesNotCount) {
  PeerLinks links;
  links.expect(kP, kD, kNever);
  links.report(kP, up(kD, 0, {}));
  links.report(kD, up(kP, 3e9, {}));
  EXPECT_EQ(links.link(kP, kD).bytes_per_second, 3e9);
}

TEST(PeerLinks, GoesDownOnErrorSilenceOrWord) {
  PeerLinks links;
  links.expect(kP, kD, kStart + seconds(5));
  EXPECT_EQ(links.next_deadline(), kStart + seconds(5));
  links.on_tick(kStart + seconds(4));
  EXPECT_EQ(links.link(kP, kD).state, State::kPending);
  links.on_tick(kStart + seconds(5));
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
  EXPECT_EQ(links.next_deadline(), kNever);

  links.report(kP, up(kD, 1e9, {}));  // late, but it came
  links.report(kD, up(kP, 1e9, {}));
  EXPECT_EQ(links.link(kP, kD).state, State::kUp);
  links.mark_down(kD, kP);
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
  links.report(kD, {.peer = kP, .connected = false, .error = "refused"});
  EXPECT_EQ(links.link(kP, kD).state, State::kDown);
}

TEST(PeerLinks, KnowsOnlyPairsThatWereAskedFor) {
  PeerLinks links;
  EXPECT_FALSE(links.report(kP, up(kD, 1e9, {})));
  links.expect(kP, kD, kNever);
  const WorkerRef former{"d0", Incarnation(5)};
  EXPECT_FALSE(links.report(kP, up(former, 1e9, {})));
  links.forget(kD);
  EXPECT_EQ(links.link(kP, kD).state, State::kAbsent);
  EXPECT_TRUE(links.empty());
}

}  // namespace
}  // namespace baton::coordinator
