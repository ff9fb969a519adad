#include "coordinator/membership/membership.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <iostream>
#include <set>

#include "base/cat.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "transport/messages/life_over.h"

namespace baton::coordinator {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

WorkerDescription worker(const std::string& name, uint64_t incarnation) {
  WorkerDescription d;
  d.ref = {name, Incarnation(incarnation)};
  d.control_address = cat("127.0.0.1:", 1000 + incarnation);
  return d;
}

std::string text(const MembershipDecision& decision) {
  const auto ref = [](const WorkerRef& r) { return cat(r.name, "/", r.incarnation.value()); };
  if (const auto* d = std::get_if<StartStream>(&decision)) return cat("start ", ref(d->worker));
  if (const auto* d = std::get_if<StopStream>(&decision)) return cat("stop ", ref(d->worker));
  if (const auto* d = std::get_if<WorkerUp>(&decision)) return cat("up ", ref(d->worker.ref));
  if (const auto* d = std::get_if<WorkerTakesRequests>(&decision)) {
    return cat(d->takes ? "takes " : d->silent ? "silent " : "pauses ", ref(d->worker));
  }
  return cat("lost ", ref(std::get<WorkerLost>(decision).worker));
}

class MembershipTest : public ::testing::Test {
 protected:
  std::vector<std::string> decisions() {
    std::vector<MembershipDecision> taken;
    membership.take_decisions(taken);
    std::vector<std::string> out;
    for (const auto& d : taken) out.push_back(text(d));
    return out;
  }
  // Joined, stream open, decisions taken.
  uint64_t bring_up(const WorkerDescription& d) {
    const auto lease = membership.join(d, now);
    EXPECT_TRUE(lease.ok()) << lease.status();
    membership.stream_opened(d, now);
    decisions();
    return lease.value_or(0);
  }
  // Time passes the way the control loop lets it pass: every deadline is met.
  void pass(Duration d) {
    const Instant end = now + d;
    while (membership.next_deadline() <= end) {
      now = std::max(now, membership.next_deadline());
      membership.on_tick(now);
    }
    now = end;
    membership.on_tick(now);
  }
  WorkerState state(const WorkerDescription& d) const { return membership.find(d.ref)->state; }

  Membership membership;
  Instant now{};
  const WorkerDescription a = worker("a", 7);
};

TEST_F(MembershipTest, AWorkerComesUp) {
  const auto lease = membership.join(a, now);
  ASSERT_TRUE(lease.ok());
  EXPECT_THAT(decisions(), ElementsAre("start a/7"));
  EXPECT_EQ(state(a), WorkerState::kStarting);
  EXPECT_TRUE(membership.renew(a.ref, *lease, now).ok());
  membership.stream_closed(a.ref, /*was_open=*/false, "refused", now);  // the first attempt came too early
  EXPECT_THAT(decisions(), IsEmpty());
  membership.stream_opened(a, now);
  EXPECT_THAT(decisions(), ElementsAre("up a/7"));
  EXPECT_EQ(state(a), WorkerState::kReady);
  LoadSnapshot load;
  load.running = 3;
  EXPECT_TRUE(membership.heard(a.ref, Pong{.load = load}, now));
  EXPECT_TRUE(membership.find(a.ref)->load == load);
}

TEST_F(MembershipTest, SilenceIsSuspectThenDeath) {
  const uint64_t lease = bring_up(a);
  pass(timers::kSuspect - 1ns);
  EXPECT_THAT(decisions(), IsEmpty());
  pass(1ns);
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  EXPECT_EQ(state(a), WorkerState::kSuspect);
  EXPECT_TRUE(membership.heard(a.ref, Released{}, now));
  EXPECT_THAT(decisions(), ElementsAre("takes a/7"));

  pass(timers::kDead - 1ns);
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  pass(1ns);
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));
  EXPECT_EQ(membership.find(a.ref), nullptr);
  // The same life knocks again, after SIGCONT.
  EXPECT_FALSE(membership.heard(a.ref, Released{}, now));
  EXPECT_EQ(membership.renew(a.ref, lease, now).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(membership.join(a, now).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(youngest_life_over(membership.join(worker("a", 3), now).status()), a.ref.incarnation)
      << "what a process needs to know whose clock is behind";
  membership.stream_opened(a, now);
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_TRUE(membership.join(worker("a", 8), now).ok());
  EXPECT_EQ(youngest_life_over(membership.join(a, now).status()), a.ref.incarnation);
}

// The process answers every ping, its engine does not move.
TEST_F(MembershipTest, AStepThatDoesNotEndIsSuspectThenDeath) {
  bring_up(a);
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = timers::kStepSuspect - 1ns}, now));
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = timers::kStepSuspect}, now));
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  EXPECT_TRUE(membership.heard(a.ref, TransferReport{}, now)) << "its other threads go on";
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_TRUE(membership.heard(a.ref, StepReport{}, now)) << "it was only slow";
  EXPECT_THAT(decisions(), ElementsAre("takes a/7"));
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = timers::kStepDead - 1ns}, now));
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  EXPECT_FALSE(membership.heard(a.ref, Pong{.step_age = timers::kStepDead}, now));
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));
  EXPECT_EQ(membership.find(a.ref), nullptr);
}

TEST_F(MembershipTest, ALongStepThatWasExpectedIsNoReason) {
  bring_up(a);
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = 99s, .step_predicted = 20s}, now));
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = 100s, .step_predicted = 20s}, now));
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  EXPECT_TRUE(membership.heard(a.ref, Pong{.step_age = 399s, .step_predicted = 20s}, now));
  EXPECT_FALSE(membership.heard(a.ref, Pong{.step_age = 400s, .step_predicted = 20s}, now));
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));
}

// Fences die with a coordinator; who obeyed them remembers.
TEST_F(MembershipTest, ALifeThatAPeerTakesForOverIsLost) {
  const WorkerDescription b = worker("b", 1);
  bring_up(a);
  bring_up(b);
  EXPECT_TRUE(membership.heard(b.ref, PeerReport{.peer = a.ref, .error = "refused"}, now));
  EXPECT_TRUE(membership.heard(b.ref, PeerReport{.peer = worker("a", 6).ref, .over = true}, now));
  EXPECT_THAT(decisions(), IsEmpty()) << "another life than the one that is here";
  EXPECT_TRUE(
      membership.heard(b.ref, PeerReport{.peer = a.ref, .error = "that life is over", .over = true}, now));
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));
  EXPECT_EQ(membership.join(a, now).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(membership.join(worker("a", 8), now).ok());
}

TEST_F(MembershipTest, ALateTickIsNotTheWorkersSilence) {
  const WorkerDescription b = worker("b", 1);
  bring_up(a);
  ASSERT_TRUE(membership.join(b, now).ok());
  decisions();
  now += 10s;  // this process was stopped; what the workers said lies unread
  membership.on_tick(now);
  EXPECT_THAT(decisions(), ElementsAre("silent a/7"));
  EXPECT_TRUE(membership.heard(a.ref, Pong{}, now));
  EXPECT_THAT(decisions(), ElementsAre("takes a/7"));
  EXPECT_NE(membership.find(b.ref), nullptr);
  pass(timers::kDead);  // while it listens, silence counts
  EXPECT_THAT(decisions(), ElementsAre("silent a/7", "stop a/7", "lost a/7"));
}

TEST_F(MembershipTest, ANewLifeEndsTheOldOneAtOnce) {
  bring_up(a);
  const WorkerDescription next = worker("a", 9);
  ASSERT_TRUE(membership.join(next, now).ok());
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7", "start a/9"));
  EXPECT_FALSE(membership.heard(a.ref, Pong{}, now));
  membership.stream_closed(a.ref, true, "late news of the old stream", now);
  membership.stream_opened(a, now);
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_EQ(membership.join(worker("a", 8), now).status().code(), absl::StatusCode::kFailedPrecondition);
  membership.stream_opened(next, now);
  EXPECT_THAT(decisions(), ElementsAre("up a/9"));
}

TEST_F(MembershipTest, TheSameLifeMayJoinAgain) {
  const uint64_t first = bring_up(a);
  const auto second = membership.join(a, now);  // it missed our answer
  ASSERT_TRUE(second.ok());
  EXPECT_THAT(decisions(), IsEmpty());
  EXPECT_EQ(membership.renew(a.ref, first, now).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(membership.renew(a.ref, *second, now).ok());
}

TEST_F(MembershipTest, LeasesOfNobody) {
  EXPECT_EQ(membership.renew(a.ref, 1, now).code(),
            absl::StatusCode::kNotFound);  // this coordinator restarted
  EXPECT_EQ(membership.leave(a.ref, 1, now).code(), absl::StatusCode::kNotFound);
  const uint64_t lease = bring_up(a);
  EXPECT_EQ(membership.renew({"a", Incarnation(8)}, lease, now).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(membership.renew({"b", Incarnation(7)}, lease, now).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(membership.renew(a.ref, lease + 1, now).code(), absl::StatusCode::kNotFound);
}

TEST_F(MembershipTest, AWorkerNobodyCanReachIsGivenUpWithItsLease) {
  const auto lease = membership.join(a, now);
  decisions();
  pass(timers::kLeaseTtl - 1ns);
  ASSERT_TRUE(membership.renew(a.ref, *lease, now).ok());
  pass(timers::kLeaseTtl - 1ns);
  EXPECT_THAT(decisions(), IsEmpty());
  pass(1ns);
  EXPECT_THAT(decisions(), ElementsAre("stop a/7"));  // never up, so nothing is lost
}

TEST_F(MembershipTest, ServingNeedsNoLease) {
  bring_up(a);
  for (int i = 0; i < 600; ++i) {  // ten minutes without one renewal
    pass(timers::kSuspect - 1ns);
    ASSERT_TRUE(membership.heard(a.ref, Pong{}, now));
  }
  EXPECT_THAT(decisions(), IsEmpty());
}

TEST_F(MembershipTest, ABrokenStreamIsALossAtOnce) {
  bring_up(a);
  membership.stream_closed(a.ref, true, "reset", now);
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));
}

TEST_F(MembershipTest, DrainingByWordAndByLeaving) {
  bring_up(a);
  EXPECT_TRUE(membership.heard(a.ref, Pong{.draining = true}, now));
  EXPECT_THAT(decisions(), ElementsAre("pauses a/7"));
  EXPECT_TRUE(membership.heard(a.ref, Pong{.draining = true}, now));
  EXPECT_THAT(decisions(), IsEmpty());
  pass(timers::kDead);
  EXPECT_THAT(decisions(), ElementsAre("stop a/7", "lost a/7"));

  const WorkerDescription b = worker("b", 1);
  const uint64_t lease = bring_up(b);
  EXPECT_TRUE(membership.leave(b.ref, lease, now).ok());
  EXPECT_THAT(decisions(), ElementsAre("pauses b/1"));
  EXPECT_TRUE(membership.heard(b.ref, StepReport{}, now));  // it finishes what it has
  EXPECT_EQ(state(b), WorkerState::kDraining);
  membership.stream_closed(b.ref, true, "done", now);
  EXPECT_THAT(decisions(), ElementsAre("stop b/1", "lost b/1"));

  const WorkerDescription c = worker("c", 1);
  const auto starting = membership.join(c, now);
  decisions();
  EXPECT_TRUE(membership.leave(c.ref, *starting, now).ok());
  EXPECT_THAT(decisions(), ElementsAre("stop c/1"));
}

TEST_F(MembershipTest, ADrainingSuspectStaysDraining) {
  bring_up(a);
  pass(timers::kSuspect);
  EXPECT_TRUE(membership.heard(a.ref, Pong{.draining = true}, now));
  EXPECT_EQ(state(a), WorkerState::kDraining);
  EXPECT_EQ(decisions().back(), "pauses a/7");

  const WorkerDescription b = worker("b", 1);
  const uint64_t lease = bring_up(b);
  pass(timers::kSuspect);
  EXPECT_TRUE(membership.renew(b.ref, lease, now).ok());
  EXPECT_TRUE(membership.leave(b.ref, lease, now).ok());  // nobody needs to wait for it any more
  EXPECT_THAT(decisions(), ElementsAre("silent b/1", "pauses b/1"));
}

TEST_F(MembershipTest, AWorkerWithoutNameOrAddressIsRefused) {
  WorkerDescription bad = a;
  bad.control_address.clear();
  EXPECT_EQ(membership.join(bad, now).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(membership.join(worker("", 1), now).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MembershipTest, NamesAreBounded) {
  MembershipOptions options;
  options.max_names = 3;
  Membership small(options);
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(small.join(worker(name, 1), now).ok());
  EXPECT_EQ(small.join(worker("d", 1), now).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(small.join(worker("c", 2), now).ok());  // a new life needs no new place
  for (int i = 0; i < 100; ++i) {
    const WorkerDescription one = worker(cat("x", i), 1);
    small.stream_opened(worker("c", 2), now);
    now += timers::kLeaseTtl;
    small.on_tick(now);
    (void)small.join(one, now);
  }
  EXPECT_LE(small.workers().size(), 3u);
}

// Random life: whatever happens, each life comes up at most once, is lost only when it was up, never comes
// back, and a deadline that was met is over.
class Chaos {
 public:
  explicit Chaos(uint64_t seed) : rng_(seed) {}

  void turn() {
    now_ += Duration(rng_.below(400'000'000));
    while (membership_.next_deadline() <= now_) {
      const Instant due = membership_.next_deadline();
      membership_.on_tick(due);
      ASSERT_GT(membership_.next_deadline(), due);
    }
    const WorkerDescription d = worker(cat("w", rng_.below(3)), 1 + rng_.below(40));
    switch (rng_.below(7)) {
      case 0:
        if (const auto lease = membership_.join(d, now_); lease.ok()) leases_[d.ref] = *lease;
        break;
      case 1:
        (void)membership_.renew(d.ref, leases_[d.ref], now_);
        break;
      case 2:
        (void)membership_.leave(d.ref, leases_[d.ref], now_);
        break;
      case 3:
        membership_.stream_opened(d, now_);
        break;
      case 4:
        membership_.stream_closed(d.ref, rng_.below(2) == 0, "x", now_);
        break;
      default:
        some_worker_talks();
        break;
    }
    std::vector<MembershipDecision> taken;
    membership_.take_decisions(taken);
    for (const auto& one : taken) check(one);
  }
  const std::vector<std::string>& log() const { return log_; }

 private:
  void some_worker_talks() {
    for (const auto& [name, view] : membership_.workers()) {
      if (rng_.below(2) == 0) {
        const WorkerDescription d = view.description;
        membership_.stream_opened(d, now_);
        EXPECT_TRUE(membership_.heard(d.ref, Pong{.draining = rng_.below(20) == 0}, now_));
      }
    }
  }
  void check(const MembershipDecision& decision) {
    log_.push_back(text(decision));
    if (const auto* d = std::get_if<StartStream>(&decision)) {
      EXPECT_TRUE(streams_.insert(d->worker).second && !over_.contains(d->worker));
    } else if (const auto* d = std::get_if<StopStream>(&decision)) {
      EXPECT_EQ(streams_.erase(d->worker), 1u);
      over_.insert(d->worker);
    } else if (const auto* d = std::get_if<WorkerUp>(&decision)) {
      EXPECT_TRUE(up_.emplace(d->worker.ref, State{true, false}).second && streams_.contains(d->worker.ref));
    } else if (const auto* d = std::get_if<WorkerTakesRequests>(&decision)) {
      ASSERT_TRUE(up_.contains(d->worker));
      const State said{d->takes, d->silent};
      EXPECT_NE(up_[d->worker], said);
      EXPECT_FALSE(d->takes && d->silent);
      up_[d->worker] = said;
    } else {
      EXPECT_EQ(up_.erase(std::get<WorkerLost>(decision).worker), 1u);
    }
  }

  Rng rng_;
  Membership membership_;
  Instant now_{};
  std::map<WorkerRef, uint64_t> leases_;
  std::set<WorkerRef> streams_, over_;
  using State = std::pair<bool, bool>;  // takes requests, is silent
  std::map<WorkerRef, State> up_;
  std::vector<std::string> log_;
};

TEST(MembershipChaos, KeepsItsWord) {
  const uint64_t seed = support::fresh_seed();
  size_t events = 0;
  for (uint64_t run = 0; run < 200; ++run) {
    Chaos first(seed + run), again(seed + run);
    for (int i = 0; i < 300 && !::testing::Test::HasFailure(); ++i) {
      first.turn();
      again.turn();
    }
    ASSERT_FALSE(::testing::Test::HasFailure()) << "seed " << seed + run;
    ASSERT_EQ(first.log(), again.log());
    events += first.log().size();
  }
  EXPECT_GT(events, 200u * 20);
}

}  // namespace
}  // namespace baton::coordinator
