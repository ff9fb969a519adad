// The undisturbed life of requests, the queue, deadlines and cancellation.
#include "flow_fixture.h"

namespace baton::coordinator {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

TEST_F(FlowTest, RemotePrefillFromSubmitToEmptyLedger) {
  pair_up();
  RecordingSink& client = submit(1);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
  EXPECT_EQ(channel_.submits[0].second.transfer, channel_.submits[1].second.transfer);
  now_ += milliseconds(3);
  accept("p0", 1, Leg::kPrefill, 16);
  EXPECT_EQ(client.text(), "");
  accept("d0", 1, Leg::kDecode);
  now_ += milliseconds(20);
  say(refs_["p0"], StepReport{.sequences = {{.request = RequestId(1),
                                             .leg = Leg::kPrefill,
                                             .tokens = {{.token = 5}},
                                             .cached_tokens = 16,
                                             .queued = milliseconds(2),
                                             .prefill = milliseconds(15)}}});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5");  // does not wait for the KV
  landed("d0", 1);
  tokens("d0", 1, Leg::kDecode, {6});
  released("p0", 1, Leg::kPrefill);
  EXPECT_THAT(flow_.ledger().holders(RequestId(1)), ElementsAre(refs_["d0"]));
  tokens("d0", 1, Leg::kDecode, {7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
  EXPECT_EQ(client.finished.usage.completion_tokens, 4);
  EXPECT_EQ(client.finished.usage.prompt_tokens, 40);
  EXPECT_EQ(client.finished.usage.cached_tokens, 16);
  const StageTimes& t = client.finished.times;
  EXPECT_EQ(t.queue + t.reserve + t.worker_queue + t.prefill, milliseconds(23));
  EXPECT_EQ(t.prefill, milliseconds(15));
  EXPECT_THAT(channel_.take(), ElementsAre("d0 release r1"));
  EXPECT_FALSE(flow_.idle());
  released("d0", 1, Leg::kDecode);
  EXPECT_TRUE(flow_.idle());
  EXPECT_TRUE(router_.assignments().empty());
  ASSERT_EQ(observer_.records.size(), 1u);
  EXPECT_EQ(observer_.tokens, 4);
  EXPECT_EQ(observer_.records[0].verdict.decode_worker, "d0");
}

TEST_F(FlowTest, OneAnyWorkerServesWhole) {
  up("a0");
  RecordingSink& client = submit(1);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r1 whole"));
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {5});
  tokens("a0", 1, Leg::kWhole, {6, 7}, FinishReason::kEndToken);
  EXPECT_EQ(client.text(), "started(local) 5 6 7 finished(1 local)");
  EXPECT_THAT(channel_.take(), ElementsAre("a0 release r1"));
  released("a0", 1, Leg::kWhole);
  EXPECT_TRUE(flow_.idle());
}

TEST_F(FlowTest, TheFirstTokenMayBeTheLast) {
  pair_up();
  RecordingSink& client = submit(1, 40, 1);
  to_landing(1);
  landed("d0", 1);
  tokens("d0", 1, Leg::kDecode, {}, FinishReason::kLength);  // the decode side learns it with the KV
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 finished(3 remote-prefill)");
}

TEST_F(FlowTest, APrefillLegMayEndTheRequestItself) {
  pair_up();
  RecordingSink& client = submit(1);
  to_prefilling(1);
  tokens("p0", 1, Leg::kPrefill, {5}, FinishReason::kEndToken);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 finished(1 remote-prefill)");
  EXPECT_THAT(channel_.take(), testing::Contains("d0 release r1"));
}

TEST_F(FlowTest, TokensWaitForAdmissionOnBothSides) {
  pair_up();
  RecordingSink& client = submit(1);
  accept("p0", 1, Leg::kPrefill);
  tokens("p0", 1, Leg::kPrefill, {5});
  EXPECT_EQ(client.text(), "");
  accept("d0", 1, Leg::kDecode);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5");
}

TEST_F(FlowTest, TheDecodeStreamMayOvertakeTheFirstToken) {
  pair_up();
  RecordingSink& client = submit(1);
  to_prefilling(1);
  landed("d0", 1);
  tokens("d0", 1, Leg::kDecode, {6, 7});
  tokens("d0", 1, Leg::kDecode, {8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "");
  tokens("p0", 1, Leg::kPrefill, {5});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
}

TEST_F(FlowTest, ADecodeLegMayBeGoneBeforeTheFirstTokenComes) {
  pair_up();
  RecordingSink& client = submit(1, 40, 1);
  to_prefilling(1);
  landed("d0", 1);
  tokens("d0", 1, Leg::kDecode, {}, FinishReason::kLength);
  released("d0", 1, Leg::kDecode);
  EXPECT_EQ(client.text(), "");
  tokens("p0", 1, Leg::kPrefill, {5});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 finished(3 remote-prefill)");
  released("p0", 1, Leg::kPrefill);
  EXPECT_TRUE(flow_.idle());
  EXPECT_EQ(flow_.counters().protocol_errors, 0u);
}

TEST_F(FlowTest, PromptLogprobsComeOnceWithTheFirstToken) {
  up("a0");
  RecordingSink& client = submit(1);
  accept("a0", 1, Leg::kWhole);
  SequenceTokens s{.request = RequestId(1), .leg = Leg::kWhole};
  s.prompt_tokens = {{.token = 1}, {.token = 2}};
  say(refs_["a0"], StepReport{.sequences = {s}});
  EXPECT_EQ(client.prompt_tokens, 0u);
  tokens("a0", 1, Leg::kWhole, {5});
  EXPECT_EQ(client.prompt_tokens, 2u);
}

TEST_F(FlowTest, WarmPairsAndFences) {
  up("p0");
  up("d0");
  EXPECT_THAT(channel_.take(), UnorderedElementsAre("d0 connect p0", "p0 connect d0"));
  up("p1");  // prefill workers do not pair with each other
  EXPECT_THAT(channel_.take(), UnorderedElementsAre("p1 connect d0", "d0 connect p1"));
  down("p0");
  EXPECT_THAT(channel_.take(), UnorderedElementsAre("d0 fence p0 i1", "p1 fence p0 i1"));
}

TEST_F(FlowTest, ANewLifeEndsTheOld) {
  pair_up();
  RecordingSink& client = submit(1);
  to_landing(1);
  channel_.take();
  up("d0", 2);
  EXPECT_THAT(channel_.take(),
              ElementsAre("p0 fence d0 i1", "p0 release r1", "d0 connect p0", "p0 connect d0"));
  released("p0", 1, Leg::kPrefill);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
  EXPECT_EQ(client.text(), "started(remote-prefill) 5");
  up("d0", 1);                                      // word of the former life
  EXPECT_EQ(flow_.counters().fenced_messages, 2u);  // its joining, and what it said
}

TEST_F(FlowTest, MessagesOfAFencedLifeAreRefusedAndCounted) {
  pair_up();
  RecordingSink& client = submit(1);
  const WorkerRef former{"d0", Incarnation(99)};
  say(former, SubmitReply{RequestId(1), Leg::kDecode, true});
  say(former, StepReport{.sequences = {{.request = RequestId(1), .leg = Leg::kDecode}}});
  say(former, Released{RequestId(1), Leg::kDecode});
  say({"stranger", Incarnation(1)}, Pong{});
  EXPECT_EQ(flow_.counters().fenced_messages, 4u);
  EXPECT_TRUE(flow_.ledger().find(RequestId(1), refs_["d0"]) != nullptr);
  EXPECT_EQ(client.text(), "");
}

// ---- queue --------------------------------------------------------------------------------------

TEST_F(FlowTest, WithoutWorkersRequestsWaitAndThenFail) {
  RecordingSink& client = submit(1);
  EXPECT_EQ(flow_.queued(), 1u);
  EXPECT_FALSE(flow_.can_generate().ok());
  EXPECT_EQ(flow_.next_deadline(), now_ + timers::kAdmissionQueue);
  wait(seconds(9));
  EXPECT_EQ(client.text(), "");
  wait(seconds(1));
  EXPECT_EQ(client.text(), "failed(UNAVAILABLE)");
  EXPECT_GT(client.failed.retry_after, Duration::zero());
  EXPECT_TRUE(flow_.idle());
  EXPECT_EQ(flow_.next_deadline(), kNever);
}

TEST_F(FlowTest, WhileWorkersAreBeingConnectedRequestsWaitForThem) {
  flow_.on_worker_up(description("p0"), now_);
  flow_.on_worker_up(description("d0"), now_);
  EXPECT_FALSE(flow_.can_generate().ok());
  EXPECT_TRUE(flow_.connecting());
  submit(1);
  channel_.take();
  EXPECT_EQ(flow_.queued(), 1u);
  say({"p0", Incarnation(1)}, PeerReport{.peer = {"d0", Incarnation(1)}, .connected = true});
  EXPECT_TRUE(flow_.connecting());
  say({"d0", Incarnation(1)}, PeerReport{.peer = {"p0", Incarnation(1)}, .connected = true});
  EXPECT_FALSE(flow_.connecting());
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
}

TEST_F(FlowTest, AWorkerThatComesUpTakesTheQueueInOrder) {
  submit(1);
  submit(2);
  up("a0");
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r1 whole", "a0 submit r2 whole"));
  EXPECT_TRUE(flow_.can_generate().ok());
}

TEST_F(FlowTest, NobodyOvertakesWhileThereIsNoRoom) {
  up("a0");
  submit(1, 1500);  // 94 of 100 blocks
  submit(2, 200);
  submit(3, 10);  // would fit
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r1 whole"));
  cancel(1);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 release r1"));  // what r1 held is not free before Released
  released("a0", 1, Leg::kWhole);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r2 whole", "a0 submit r3 whole"));
}

TEST_F(FlowTest, WaitingForRoomTooLongIs429) {
  up("a0");
  submit(1, 1500);
  RecordingSink& second = submit(2, 200);
  accept("a0", 1, Leg::kWhole);
  wait(seconds(10));
  EXPECT_EQ(second.text(), "failed(RESOURCE_EXHAUSTED)");
  EXPECT_GT(second.failed.retry_after, Duration::zero());
}

TEST_F(FlowTest, OneOfACallThatHasBegunWaitsForRoomAsLongAsItMayTake) {
  up("a0");
  submit(1, 1500);
  accept("a0", 1, Leg::kWhole);
  const auto& second = submit(2, 200, 4, QueueWait::kAllItsTime);
  for (int i = 0; i < 59; ++i) wait(seconds(10));
  EXPECT_EQ(second.text(), "");
  released("a0", 1, Leg::kWhole);
  channel_.take();
}

TEST_F(FlowTest, OneThatMayWaitIsNotInTheWayForEver) {
  up("a0");
  submit(1, 1200);
  accept("a0", 1, Leg::kWhole);
  submit(2, 1500, 4, QueueWait::kAllItsTime);  // has no room while the first is there
  wait(seconds(5));
  const auto& small = submit(3, 10);
  channel_.take();
  wait(seconds(4));
  EXPECT_THAT(channel_.take(), IsEmpty());
  wait(seconds(2));
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r3 whole"));
  EXPECT_EQ(small.text(), "");
}

TEST_F(FlowTest, ForAWorkerItWaitsNoLonger) {
  const auto& only = submit(1, 200, 4, QueueWait::kAllItsTime);
  wait(seconds(10));
  EXPECT_EQ(only.text(), "failed(UNAVAILABLE)");
}

TEST_F(FlowTest, SuspectWorkersGetNothingNew) {
  up("a0");
  flow_.on_worker_takes_requests(refs_["a0"], false, true, now_);
  EXPECT_FALSE(flow_.can_generate().ok());
  EXPECT_TRUE(flow_.connecting());  // the gateway lets requests in
  submit(1);
  EXPECT_THAT(channel_.take(), IsEmpty());
  flow_.on_worker_takes_requests(refs_["a0"], true, false, now_);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r1 whole"));
  EXPECT_FALSE(flow_.connecting());
}

// A silent prefill worker is lost or back within half a second: the prompt waits for that.
TEST_F(FlowTest, ASuspectPrefillWorkerIsWaitedFor) {
  pair_up();
  flow_.on_worker_takes_requests(refs_["p0"], false, true, now_);
  submit(1);
  EXPECT_THAT(channel_.take(), IsEmpty());
  EXPECT_TRUE(flow_.can_generate().ok());  // without it the decode worker would do
  flow_.on_worker_takes_requests(refs_["p0"], true, false, now_);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
  flow_.on_worker_takes_requests(refs_["p0"], false, true, now_);
  submit(2);
  EXPECT_THAT(channel_.take(), IsEmpty());
  flow_.on_worker_takes_requests(refs_["p0"], false, false, now_);  // it drains
  EXPECT_THAT(channel_.take(), ElementsAre("d0 submit r2 whole"));
}

TEST_F(FlowTest, ASuspectPrefillWorkerThatIsLostIsDoneWithout) {
  pair_up();
  flow_.on_worker_takes_requests(refs_["p0"], false, true, now_);
  submit(1);
  EXPECT_THAT(channel_.take(), IsEmpty());
  down("p0");
  EXPECT_THAT(channel_.take(), ElementsAre("d0 fence p0 i1", "d0 submit r1 whole"));
  EXPECT_FALSE(flow_.connecting());
}

class SmallQueueTest : public FlowTest {
 protected:
  SmallQueueTest() : FlowTest(FlowOptions{.max_queued = 2}) {}
};

TEST_F(SmallQueueTest, AFullQueueRefusesAtOnce) {
  submit(1);
  submit(2);
  RecordingSink& third = submit(3);
  EXPECT_EQ(third.text(), "failed(RESOURCE_EXHAUSTED)");
  EXPECT_GT(third.failed.retry_after, Duration::zero());
  EXPECT_EQ(flow_.counters().rejected, 1u);
  EXPECT_EQ(observer_.records.size(), 1u);
}

TEST_F(FlowTest, NonsenseIsRefused) {
  up("a0");
  EXPECT_EQ(submit(1, 0).text(), "failed(INVALID_ARGUMENT)");
  EXPECT_EQ(submit(2, 10, 0).text(), "failed(INVALID_ARGUMENT)");
  EXPECT_EQ(submit(3, 5000).text(), "failed(INVALID_ARGUMENT)");  // longer than any context
  EXPECT_EQ(submit(4).text(), "");
  EXPECT_EQ(submit(4).text(), "failed(INVALID_ARGUMENT)");  // an id in use
  EXPECT_EQ(flow_.in_flight(), 1u);
}

// ---- refusals -----------------------------------------------------------------------------------

TEST_F(FlowTest, ARefusedLegReturnsTheRequestToTheQueue) {
  pair_up();
  RecordingSink& client = submit(1);
  channel_.take();
  accept("p0", 1, Leg::kPrefill);
  refuse("d0", 1, Leg::kDecode);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 release r1"));
  EXPECT_EQ(flow_.queued(), 1u);
  released("p0", 1, Leg::kPrefill);
  EXPECT_TRUE(flow_.ledger().empty());
  EXPECT_THAT(channel_.take(), IsEmpty());  // a pause first
  wait(milliseconds(10));
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
  to_decoding(1);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6");
  EXPECT_EQ(flow_.counters().refusals, 1u);
}

TEST_F(FlowTest, RefusedAgainAndAgainIs429WithinTheAdmissionDeadline) {
  up("a0");
  RecordingSink& client = submit(1);
  const Instant start = now_;
  int refusals = 0;
  while (!client.ended) {
    if (flow_.ledger().holds(RequestId(1))) {
      refuse("a0", 1, Leg::kWhole, RefuseReason::kOverloaded);
      ++refusals;
    }
    ASSERT_NE(flow_.next_deadline(), kNever);
    wait(flow_.next_deadline() - now_);
  }
  EXPECT_EQ(now_ - start, timers::kAdmissionQueue);
  EXPECT_EQ(client.text(), "failed(RESOURCE_EXHAUSTED)");
  EXPECT_GT(refusals, 10);
  EXPECT_LT(refusals, 50);  // the pauses grow
  EXPECT_TRUE(flow_.idle());
}

TEST_F(FlowTest, ARequestIsNotSentToAWorkerThatStillHoldsIt) {
  up("p0");
  up("d0");
  submit(1);
  refuse("d0", 1, Leg::kDecode);
  channel_.take();
  wait(seconds(1));  // p0 has not let go
  EXPECT_THAT(channel_.take(), IsEmpty());
  up("p1");
  channel_.take();
  wait(milliseconds(1));
  EXPECT_THAT(channel_.take(), IsEmpty());  // went to p1 when its link came up
  EXPECT_EQ(channel_.submits[channel_.submits.size() - 2].first.name, "p1");
}

TEST_F(FlowTest, TooLongOrInvalidIsTheClientsFault) {
  pair_up();
  RecordingSink& client = submit(1);
  channel_.take();
  refuse("p0", 1, Leg::kPrefill, RefuseReason::kTooLong);
  EXPECT_EQ(client.text(), "failed(INVALID_ARGUMENT)");
  EXPECT_THAT(channel_.take(), ElementsAre("d0 release r1"));
}

TEST_F(FlowTest, AnUnknownPeerIsConnectedAgain) {
  pair_up();
  submit(1);
  channel_.take();
  refuse("d0", 1, Leg::kDecode, RefuseReason::kUnknownPeer);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 connect d0", "d0 connect p0", "p0 release r1"));
  released("p0", 1, Leg::kPrefill);
  say(refs_["p0"], PeerReport{.peer = refs_["d0"], .connected = true});
  say(refs_["d0"], PeerReport{.peer = refs_["p0"], .connected = true});
  wait(milliseconds(10));
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d0", "d0 submit r1 decode peer=p0"));
}

TEST_F(FlowTest, ADrainingWorkerIsAvoided) {
  up("a0");
  up("a1");
  submit(1);
  EXPECT_EQ(channel_.submits.back().first.name, "a0");
  refuse("a0", 1, Leg::kWhole, RefuseReason::kDraining);
  wait(milliseconds(10));
  EXPECT_EQ(channel_.submits.back().first.name, "a1");
}

// ---- deadlines ----------------------------------------------------------------------------------

TEST_F(FlowTest, UnansweredLegsAreRoutedElsewhere) {
  up("a0");
  up("a1");
  RecordingSink& client = submit(1);
  EXPECT_EQ(channel_.submits.back().first.name, "a0");
  wait(timers::kDispatchAck);
  EXPECT_EQ(channel_.submits.back().first.name, "a1");
  EXPECT_EQ(flow_.counters().ack_timeouts, 1u);
  accept("a0", 1, Leg::kWhole);  // late
  tokens("a0", 1, Leg::kWhole, {5});
  EXPECT_EQ(client.text(), "");
  accept("a1", 1, Leg::kWhole);
  tokens("a1", 1, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(local) 5 6 7 8 finished(3 local)");
  released("a0", 1, Leg::kWhole);
  released("a1", 1, Leg::kWhole);
  EXPECT_TRUE(flow_.idle());
}

// A worker compiles the grammar before it answers.
TEST_F(FlowTest, AGrammarIsGivenTime) {
  up("a0");
  up("a1");
  GenerateRequest constrained{.id = RequestId(1), .prompt = {3}};
  constrained.grammar = {GrammarKind::kRegex, "a+"};
  submit(constrained);
  EXPECT_EQ(channel_.submits.back().second.request.grammar, constrained.grammar);
  wait(timers::kDispatchAck);
  EXPECT_EQ(channel_.submits.back().first.name, "a0");
  wait(timers::kGrammarAck - timers::kDispatchAck);
  EXPECT_EQ(channel_.submits.back().first.name, "a1");
}

TEST_F(FlowTest, ReleaseIsRepeatedUntilAnswered) {
  up("a0");
  submit(1);
  cancel(1);
  EXPECT_THAT(channel_.take(), testing::Contains("a0 release r1"));
  EXPECT_EQ(flow_.next_deadline(), now_ + seconds(2));
  wait(seconds(2));
  EXPECT_THAT(channel_.take(), ElementsAre("a0 release r1"));
  EXPECT_EQ(flow_.counters().release_overdue, 1u);
  released("a0", 1, Leg::kWhole);
  wait(seconds(2));
  EXPECT_THAT(channel_.take(), IsEmpty());
  EXPECT_EQ(flow_.next_deadline(), kNever);
}

TEST_F(FlowTest, ARepeatedReleaseIsMeantForItsOwnLegOnly) {
  up("a0");
  submit(1);
  wait(seconds(1));  // no answer: released, to be sent again once it let go
  released("a0", 1, Leg::kWhole);
  EXPECT_EQ(channel_.submits.size(), 2u);
  wait(seconds(1));  // no answer again
  channel_.take();
  wait(milliseconds(1500));  // the first Release would be repeated now, the second is not due
  EXPECT_THAT(channel_.take(), IsEmpty());
  EXPECT_EQ(flow_.counters().release_overdue, 0u);
  wait(milliseconds(500));
  EXPECT_THAT(channel_.take(), ElementsAre("a0 release r1"));
}

TEST_F(FlowTest, TheRequestsOwnTimeEndsItInEveryState) {
  pair_up();
  for (int state = 0; state < 4; ++state) {
    const uint64_t id = 10 + state;
    RecordingSink& client = submit(id);
    EXPECT_EQ(channel_.submits.back().second.request.time_left, timers::kRequestTotal + seconds(1));
    if (state == 1) to_prefilling(id);
    if (state == 2) to_landing(id);
    if (state == 3) to_decoding(id);
    if (state == 0) {
      accept("d0", id, Leg::kDecode);
      flow_.on_worker_takes_requests(refs_["p0"], false, false,
                                     now_);  // it never answers, nobody else is there
      flow_.on_worker_takes_requests(refs_["d0"], false, false, now_);
    }
    wait(timers::kRequestTotal);
    EXPECT_THAT(client.text(), HasSubstr(state == 0 ? "failed(" : "failed(DEADLINE_EXCEEDED)"));
    flow_.on_worker_takes_requests(refs_["p0"], true, false, now_);
    flow_.on_worker_takes_requests(refs_["d0"], true, false, now_);
    released("p0", id, Leg::kPrefill);
    released("d0", id, Leg::kDecode);
    EXPECT_TRUE(flow_.idle());
  }
}

// ---- cancellation -------------------------------------------------------------------------------

TEST_F(FlowTest, CancelInEveryStateReleasesEveryParty) {
  pair_up();
  for (int state = 0; state < 4; ++state) {
    const uint64_t id = 10 + state;
    RecordingSink& client = submit(id);
    if (state == 1) to_prefilling(id);
    if (state == 2) to_landing(id);
    if (state == 3) to_decoding(id);
    const std::string before = client.text();
    channel_.take();
    cancel(id);
    EXPECT_THAT(channel_.take(), ElementsAre("d0 release " + to_string(RequestId(id)),
                                             "p0 release " + to_string(RequestId(id))));
    cancel(id);  // again: nothing
    EXPECT_THAT(channel_.take(), IsEmpty());
    // What was on its way is late, and no event follows.
    if (state == 0) {
      accept("p0", id, Leg::kPrefill);
      refuse("d0", id, Leg::kDecode);
    }
    tokens("p0", id, Leg::kPrefill, {5});
    tokens("d0", id, Leg::kDecode, {6});
    EXPECT_EQ(client.text(), before);
    released("p0", id, Leg::kPrefill);
    if (state != 0) released("d0", id, Leg::kDecode);
    EXPECT_TRUE(flow_.idle());
    EXPECT_EQ(observer_.records.back().finish, FinishReason::kCancelled);
  }
  EXPECT_EQ(flow_.counters().cancelled, 4u);
  EXPECT_EQ(flow_.counters().protocol_errors, 0u);
}

TEST_F(FlowTest, CancelInTheQueue) {
  RecordingSink& client = submit(1);
  cancel(1);
  EXPECT_EQ(client.text(), "");
  EXPECT_TRUE(flow_.idle());
  EXPECT_EQ(flow_.next_deadline(), kNever);
  cancel(77);  // never heard of
}

}  // namespace
}  // namespace baton::coordinator
