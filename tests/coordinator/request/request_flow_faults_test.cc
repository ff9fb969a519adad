// Lost workers, failed hand-overs, and workers that say what they should not.
#include "flow_fixture.h"

namespace baton::coordinator {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// ---- a worker is lost, at each state ------------------------------------------------------------

TEST_F(FlowTest, PrefillWorkerLostBeforeTheFirstTokenIsReplaced) {
  up("p0");
  up("p1");
  up("d0");
  up("d1");
  for (const bool admitted : {false, true}) {
    const uint64_t id = admitted ? 2 : 1;
    RecordingSink& client = submit(id);
    const std::string first = channel_.submits[channel_.submits.size() - 2].first.name;
    const std::string decode = channel_.submits.back().first.name;
    if (admitted) {
      accept(decode, id, Leg::kDecode);
      accept(first, id, Leg::kPrefill);
    }
    down(first);
    const auto& [worker, again] = channel_.submits[channel_.submits.size() - 2];
    EXPECT_EQ(worker.name, first == "p0" ? "p1" : "p0");
    EXPECT_EQ(again.leg, Leg::kPrefill);
    const std::string other = again.peer->name;
    EXPECT_NE(other, decode);  // that one still holds the former attempt
    accept(other, id, Leg::kDecode);
    accept(worker.name, id, Leg::kPrefill);
    tokens(worker.name, id, Leg::kPrefill, {5});
    tokens(decode, id, Leg::kDecode, {66});  // the former attempt speaks late
    landed(other, id);
    tokens(other, id, Leg::kDecode, {6, 7, 8}, FinishReason::kLength);
    EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
    released(decode, id, Leg::kDecode);
    released(other, id, Leg::kDecode);
    released(worker.name, id, Leg::kPrefill);
    EXPECT_TRUE(flow_.idle());
    up(first, id + 1);
  }
  EXPECT_EQ(flow_.counters().retries, 2u);
}

TEST_F(FlowTest, WithoutAnyOtherPrefillWorkerDecodeTakesItWhole) {
  pair_up();
  RecordingSink& client = submit(1);
  to_prefilling(1);
  channel_.take();
  down("p0");
  EXPECT_THAT(channel_.take(), ElementsAre("d0 fence p0 i1", "d0 release r1"));
  released("d0", 1, Leg::kDecode);
  EXPECT_THAT(channel_.take(), ElementsAre("d0 submit r1 whole"));
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(),
            "started(fallback:no-prefill-worker) 5 6 7 8 finished(3 fallback:no-prefill-worker)");
}

TEST_F(FlowTest, AHeldFirstTokenIsForgottenWithItsWorker) {
  pair_up();
  RecordingSink& client = submit(1);
  accept("p0", 1, Leg::kPrefill);
  tokens("p0", 1, Leg::kPrefill, {5});  // held: d0 has not answered
  down("p0");
  released("d0", 1, Leg::kDecode);  // released unasked-for answer: it had been told to let go
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5, 6});
  EXPECT_EQ(client.text(), "started(fallback:no-prefill-worker) 5 6");
}

TEST_F(FlowTest, RetriesAreCounted) {
  RecordingSink& client = submit(1);
  for (uint64_t life = 1; life <= 3; ++life) {
    EXPECT_EQ(client.text(), "");
    up("a0", life);
    accept("a0", 1, Leg::kWhole);
    down("a0");
  }
  EXPECT_EQ(client.text(), "failed(UNAVAILABLE)");
  EXPECT_THAT(std::string(client.failed.status.message()), HasSubstr("tried 3 times"));
  EXPECT_TRUE(flow_.idle());
}

TEST_F(FlowTest, DecodeWorkerLostBeforeTheFirstTokenIsReplaced) {
  up("p0");
  up("d0");
  RecordingSink& client = submit(1);
  to_prefilling(1);
  up("d1");
  channel_.take();
  down("d0");
  EXPECT_THAT(channel_.take(), ElementsAre("d1 fence d0 i1", "p0 fence d0 i1", "p0 release r1"));
  released("p0", 1, Leg::kPrefill);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 prefill peer=d1", "d1 submit r1 decode peer=p0"));
  EXPECT_EQ(client.text(), "");
}

// What the client has is part of the prompt now, but for the last token, which is compared.
TEST_F(FlowTest, AnswersGoOnWhenTheirDecodeWorkerIsLost) {
  pair_up();
  RecordingSink& landing = submit(1);
  to_landing(1);
  RecordingSink& decoding = submit(2);
  to_decoding(2);
  tokens("d0", 2, Leg::kDecode, {7});
  channel_.take();
  down("d0");
  EXPECT_THAT(channel_.take(), ElementsAre("p0 fence d0 i1", "p0 release r1", "p0 release r2"));
  released("p0", 1, Leg::kPrefill);
  released("p0", 2, Leg::kPrefill);
  EXPECT_THAT(channel_.take(), ElementsAre("p0 submit r1 whole", "p0 submit r2 whole"));
  EXPECT_EQ(channel_.submits[channel_.submits.size() - 2].second.request.answered, 0);
  const GenerateRequest& rest = channel_.submits.back().second.request;
  EXPECT_EQ(rest.answered, 2);
  EXPECT_EQ(rest.stop.max_tokens, 4);
  EXPECT_THAT(std::vector<TokenId>(rest.prompt.end() - 3, rest.prompt.end()), ElementsAre(3, 5, 6));
  EXPECT_EQ(rest.prompt.size(), 42u);
  accept("p0", 1, Leg::kWhole);
  accept("p0", 2, Leg::kWhole);
  tokens("p0", 1, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  tokens("p0", 2, Leg::kWhole, {7, 8}, FinishReason::kLength);
  EXPECT_EQ(landing.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:no-decode-worker)");
  EXPECT_EQ(decoding.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:no-decode-worker)");
  EXPECT_EQ(decoding.finished.usage.prompt_tokens, 40);
  EXPECT_EQ(decoding.finished.usage.completion_tokens, 4);
  EXPECT_EQ(decoding.finished.verdict.moves, 1);
  EXPECT_EQ(flow_.counters().moves, 2u);
  released("p0", 1, Leg::kWhole);
  released("p0", 2, Leg::kWhole);
  EXPECT_TRUE(flow_.idle());
}

TEST_F(FlowTest, AMovedAnswerIsHandedOverLikeAnyOther) {
  pair_up();
  RecordingSink& client = submit(1);
  to_decoding(1);
  tokens("d0", 1, Leg::kDecode, {7});
  up("d1");
  down("d0");
  released("p0", 1, Leg::kPrefill);
  const auto& [prefill, legs] = channel_.submits[channel_.submits.size() - 2];
  EXPECT_EQ(prefill.name, "p0");
  EXPECT_EQ(legs.request.prompt.size(), 42u);
  accept("p0", 1, Leg::kPrefill);
  accept("d1", 1, Leg::kDecode);
  tokens("p0", 1, Leg::kPrefill, {7});
  landed("d1", 1, false);  // and the hand-over fails as any other
  released("p0", 1, Leg::kPrefill);
  released("d1", 1, Leg::kDecode);
  accept("d1", 1, Leg::kWhole);
  EXPECT_EQ(channel_.submits.back().second.request.answered, 2);
  tokens("d1", 1, Leg::kWhole, {7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:transfer-failed)");
}

// Its process still speaks, and lets go of what it has.
TEST_F(FlowTest, AnswersGoOnWhenTheirWorkerSaysThatItEnds) {
  up("a0");
  RecordingSink& client = submit(1);
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {5, 6});
  channel_.take();
  tokens("a0", 1, Leg::kWhole, {}, FinishReason::kWorkerEnds);
  RecordingSink& next = submit(2);
  released("a0", 1, Leg::kWhole);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 release r1"));  // and gets nothing more
  down("a0");
  up("a0", 2);
  EXPECT_THAT(channel_.take(), ElementsAre("a0 submit r1 whole", "a0 submit r2 whole"));
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(local) 5 6 7 8 finished(3 local)");
  EXPECT_EQ(next.text(), "");
  EXPECT_EQ(flow_.counters().retries, 1u);
}

// It keeps its place, and new requests wait behind it as they do for anybody's room.
TEST_F(FlowTest, AMovedAnswerWaitsForRoomForAsLongAsItTakes) {
  up("a0");
  up("a1");
  RecordingSink& client = submit(1, 40, 4);
  const std::string first = channel_.submits.back().first.name;
  const std::string second = first == "a0" ? "a1" : "a0";
  accept(first, 1, Leg::kWhole);
  tokens(first, 1, Leg::kWhole, {5, 6});
  say(refs_[second], Pong{.load = {.blocks_free = 1, .blocks_active = 99}});
  down(first);
  RecordingSink& next = submit(2);
  wait(seconds(10));
  wait(seconds(10));
  EXPECT_EQ(client.text(), "started(local) 5 6");
  EXPECT_EQ(next.text(), "failed(RESOURCE_EXHAUSTED)");
  say(refs_[second], Pong{.load = {.blocks_free = 50, .blocks_active = 50}});
  accept(second, 1, Leg::kWhole);
  tokens(second, 1, Leg::kWhole, {6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(local) 5 6 7 8 finished(3 local)");
  EXPECT_EQ(client.finished.verdict.moves, 1);
}

// A worker that has served for long is not blamed on the request.
TEST_F(FlowTest, LossesLongAfterEachOtherAreForgiven) {
  RecordingSink& client = submit(1, 40, 100);
  for (uint64_t life = 1; life <= 5; ++life) {
    up("a0", life);
    accept("a0", 1, Leg::kWhole);
    tokens("a0", 1, Leg::kWhole, life == 1 ? std::vector<TokenId>{5} : std::vector<TokenId>{5, 5});
    wait(seconds(30));
    down("a0");
  }
  EXPECT_EQ(client.text(), "started(local) 5 5 5 5 5");
  for (uint64_t life = 6; life <= 7; ++life) {
    up("a0", life);
    accept("a0", 1, Leg::kWhole);
    down("a0");
  }
  EXPECT_EQ(client.text(), "started(local) 5 5 5 5 5 failed(UNAVAILABLE)");
  EXPECT_EQ(client.failed.verdict.moves, 6);
}

TEST_F(FlowTest, AMovedAnswerThatDiffersIsNotServed) {
  up("a0");
  up("a1");
  RecordingSink& client = submit(1);
  const std::string first = channel_.submits.back().first.name;
  accept(first, 1, Leg::kWhole);
  tokens(first, 1, Leg::kWhole, {5, 6});
  down(first);
  const std::string second = channel_.submits.back().first.name;
  accept(second, 1, Leg::kWhole);
  tokens(second, 1, Leg::kWhole, {66, 7});
  EXPECT_EQ(client.text(), "started(local) 5 6 failed(INTERNAL)");
  EXPECT_EQ(flow_.counters().replay_mismatches, 1u);
}

class MixedFlowTest : public FlowTest, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Of, MixedFlowTest, testing::Values("model", "numerics"));

TEST_P(MixedFlowTest, AnAnswerGoesOnOnlyWithItsOwn) {
  up("a0");
  RecordingSink& client = submit(1);
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {5, 6});
  WorkerDescription other = description("a1");
  (GetParam() == "model" ? other.model_hash : other.numerics_id) = "other";
  flow_.on_worker_up(other, now_);
  refs_["a1"] = other.ref;
  down("a0");
  RecordingSink& next = submit(2);  // is not held up by it
  accept("a1", 2, Leg::kWhole);
  tokens("a1", 2, Leg::kWhole, {5});
  EXPECT_EQ(next.text(), "started(local) 5");
  up("a0", 2);
  EXPECT_EQ(channel_.submits.back().first.name, "a0");
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {6, 7});
  EXPECT_EQ(client.text(), "started(local) 5 6 7");
  down("a0");
  wait(seconds(10));
  EXPECT_EQ(client.text(), "started(local) 5 6 7 failed(UNAVAILABLE)");
  EXPECT_THAT(std::string(client.failed.status.message()),
              HasSubstr("no worker is left with its model and numerics, n"));
}

TEST_F(FlowTest, PrefillWorkerLostAfterItsWorkIsNothingToTheStream) {
  pair_up();
  RecordingSink& landed_already = submit(1);
  to_landing(1);
  landed("d0", 1);
  RecordingSink& decoding = submit(2);
  to_decoding(2);
  down("p0");
  tokens("d0", 1, Leg::kDecode, {6, 7, 8}, FinishReason::kLength);
  tokens("d0", 2, Leg::kDecode, {7, 8}, FinishReason::kLength);
  EXPECT_EQ(landed_already.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
  EXPECT_EQ(decoding.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
}

TEST_F(FlowTest, PrefillWorkerLostWhileLandingTheDecodeSideKnows) {
  pair_up();
  RecordingSink& lucky = submit(1);
  to_landing(1);
  RecordingSink& torn = submit(2);
  to_landing(2);
  down("p0");
  landed("d0", 1);  // all of it had come
  tokens("d0", 1, Leg::kDecode, {6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(lucky.text(), "started(remote-prefill) 5 6 7 8 finished(3 remote-prefill)");
  landed("d0", 2, false);
  released("d0", 2, Leg::kDecode);
  accept("d0", 2, Leg::kWhole);
  tokens("d0", 2, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(torn.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:transfer-failed)");
}

TEST_F(FlowTest, ButNotForEver) {
  pair_up();
  RecordingSink& client = submit(1);
  to_landing(1);
  down("p0");
  EXPECT_EQ(flow_.next_deadline(), now_ + seconds(2));
  wait(seconds(2));
  released("d0", 1, Leg::kDecode);
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5, 6});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6");
}

TEST_F(FlowTest, AnswersOfAWholeWorkerWaitForAnother) {
  up("a0");
  RecordingSink& early = submit(1);
  RecordingSink& late = submit(2);
  accept("a0", 1, Leg::kWhole);
  accept("a0", 2, Leg::kWhole);
  tokens("a0", 2, Leg::kWhole, {5});
  down("a0");
  EXPECT_EQ(early.text(), "");
  EXPECT_EQ(late.text(), "started(local) 5");
  up("a1");
  EXPECT_EQ(channel_.submits.back().first.name, "a1");
  accept("a1", 2, Leg::kWhole);
  tokens("a1", 2, Leg::kWhole, {5, 6});
  EXPECT_EQ(late.text(), "started(local) 5 6");
}

TEST_F(FlowTest, LosingAReleasingPartyClosesItsEntry) {
  pair_up();
  submit(1);
  to_landing(1);
  cancel(1);
  down("p0");
  EXPECT_FALSE(flow_.ledger().empty());
  down("d0");
  EXPECT_TRUE(flow_.idle());
  flow_.on_worker_lost({"d0", Incarnation(1)}, now_);
  EXPECT_EQ(flow_.counters().workers_lost, 2u);
}

// ---- the hand-over fails ------------------------------------------------------------------------

TEST_F(FlowTest, AFailedTransferIsComputedAgainAndContinues) {
  pair_up();
  RecordingSink& client = submit(1);
  to_landing(1);
  channel_.take();
  landed("d0", 1, false);
  EXPECT_THAT(channel_.take(), ElementsAre("d0 release r1", "p0 release r1"));
  tokens("d0", 1, Leg::kDecode, {}, FinishReason::kError);  // the engine's word about the same: late
  released("d0", 1, Leg::kDecode);
  EXPECT_THAT(channel_.take(), ElementsAre("d0 submit r1 whole"));
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5});  // the client has it already
  EXPECT_EQ(client.text(), "started(remote-prefill) 5");
  tokens("d0", 1, Leg::kWhole, {6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:transfer-failed)");
  EXPECT_EQ(client.finished.usage.completion_tokens, 4);
  EXPECT_EQ(flow_.counters().replayed_tokens, 1u);
}

TEST_F(FlowTest, ADecodeLegThatEndsBeforeItsKvIsAFailedTransferToo) {
  pair_up();
  RecordingSink& client = submit(1);
  to_landing(1);
  tokens("d0", 1, Leg::kDecode, {}, FinishReason::kError);
  released("d0", 1, Leg::kDecode);
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 7 8 finished(3 fallback:transfer-failed)");
}

TEST_F(FlowTest, APrefillErrorIsComputedWhole) {
  pair_up();
  RecordingSink& client = submit(1);
  to_prefilling(1);
  tokens("p0", 1, Leg::kPrefill, {}, FinishReason::kError);
  released("d0", 1, Leg::kDecode);
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {5});
  EXPECT_EQ(client.text(), "started(fallback:prefill-failed) 5");
}

TEST_F(FlowTest, AReplayThatDiffersIsNotServed) {
  pair_up();
  RecordingSink& client = submit(1);
  to_landing(1);
  landed("d0", 1, false);
  released("d0", 1, Leg::kDecode);
  accept("d0", 1, Leg::kWhole);
  tokens("d0", 1, Leg::kWhole, {55, 6});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 failed(INTERNAL)");
  EXPECT_EQ(flow_.counters().replay_mismatches, 1u);
}

class StrictFlowTest : public FlowTest {
 protected:
  StrictFlowTest() : FlowTest(FlowOptions{.on_prefill_failure = PrefillFailure::kError}) {}
};

TEST_F(StrictFlowTest, WithThePolicyErrorFailuresAreFailures) {
  pair_up();
  RecordingSink& torn = submit(1);
  to_landing(1);
  landed("d0", 1, false);
  EXPECT_EQ(torn.text(), "started(remote-prefill) 5 failed(UNAVAILABLE)");
  RecordingSink& broken = submit(2);
  to_prefilling(2);
  tokens("p0", 2, Leg::kPrefill, {}, FinishReason::kError);
  EXPECT_EQ(broken.text(), "failed(UNAVAILABLE)");
}

TEST_F(FlowTest, AnErrorOfTheDecodeWorkerEndsTheStream) {
  pair_up();
  RecordingSink& client = submit(1);
  to_decoding(1);
  channel_.take();
  tokens("d0", 1, Leg::kDecode, {}, FinishReason::kError);
  EXPECT_EQ(client.text(), "started(remote-prefill) 5 6 failed(INTERNAL)");
  EXPECT_THAT(channel_.take(), ElementsAre("d0 release r1", "p0 release r1"));
}

// ---- words that are late, doubled or wrong ------------------------------------------------------

TEST_F(FlowTest, DoubledAndStrangeWordsChangeNothing) {
  pair_up();
  RecordingSink& client = submit(1);
  accept("p0", 1, Leg::kPrefill);
  accept("p0", 1, Leg::kPrefill);
  EXPECT_EQ(flow_.counters().duplicate_messages, 1u);
  EXPECT_EQ(client.text(), "");
  refuse("p0", 1, Leg::kPrefill);  // after it accepted
  accept("d0", 1, Leg::kWhole);    // not what it was asked
  EXPECT_EQ(flow_.counters().protocol_errors, 2u);
  accept("p0", 99, Leg::kPrefill);
  tokens("p0", 99, Leg::kPrefill, {1});
  landed("d0", 99);
  released("p0", 99, Leg::kPrefill);
  EXPECT_EQ(flow_.counters().late_messages, 3u);
  EXPECT_EQ(flow_.counters().duplicate_messages, 2u);
  say(refs_["d0"], TransferReport{.transfer = TransferId(999), .request = RequestId(1), .ok = false});
  say(refs_["p0"], PeerReport{.peer = {"d9", Incarnation(1)}, .connected = true});
  EXPECT_EQ(flow_.counters().late_messages, 5u);
  tokens("d0", 1, Leg::kWhole, {1});
  released("d0", 1, Leg::kWhole);
  EXPECT_EQ(flow_.counters().protocol_errors, 4u);
  accept("d0", 1, Leg::kDecode);
  tokens("p0", 1, Leg::kPrefill, {5});
  EXPECT_EQ(client.text(), "started(remote-prefill) 5");
}

TEST_F(FlowTest, TokensThatCannotBeEndTheRequest) {
  pair_up();
  struct Case {
    std::string worker;
    Leg leg;
    std::vector<TokenId> tokens;
  };
  const std::vector<Case> cases = {
      {"p0", Leg::kPrefill, {7}},          // a second first token
      {"d0", Leg::kDecode, {6, 7, 8, 9}},  // one more than asked for
  };
  uint64_t id = 1;
  for (const Case& c : cases) {
    RecordingSink& client = submit(id);
    to_landing(id);
    tokens(c.worker, id, c.leg, c.tokens);
    EXPECT_EQ(client.text(), "started(remote-prefill) 5 failed(INTERNAL)");
    released("p0", id, Leg::kPrefill);
    released("d0", id, Leg::kDecode);
    EXPECT_TRUE(flow_.idle());
    ++id;
  }
  RecordingSink& after_end = submit(id);
  to_prefilling(id);
  tokens("d0", id, Leg::kDecode, {6}, FinishReason::kEndToken);
  tokens("d0", id, Leg::kDecode, {7});
  EXPECT_EQ(after_end.text(), "failed(INTERNAL)");
}

TEST_F(FlowTest, ALegThatLetsGoUnaskedIsAnError) {
  pair_up();
  RecordingSink& prefilling = submit(1);
  to_prefilling(1);
  released("p0", 1, Leg::kPrefill);
  EXPECT_EQ(prefilling.text(), "");  // again, whole
  released("d0", 1, Leg::kDecode);
  EXPECT_EQ(channel_.submits.back().second.leg, Leg::kWhole);
  RecordingSink& decoding = submit(2);
  to_decoding(2);
  released("d0", 2, Leg::kDecode);
  EXPECT_EQ(decoding.text(), "started(remote-prefill) 5 6 failed(INTERNAL)");
  EXPECT_EQ(flow_.counters().protocol_errors, 2u);
}

TEST_F(FlowTest, PrefixReportsReachTheRouter) {
  up("a0");
  const std::vector<TokenId> prompt(40, 3);
  const auto hashes = chain_hashes({}, "", prompt, 16);
  say(refs_["a0"], StepReport{.blocks_stored = hashes, .blocks_evicted = {hashes[0]}});
  EXPECT_EQ(router_.prefixes().cached_blocks(refs_["a0"], hashes), 2);  // evicted before it was stored
  submit(1);
  accept("a0", 1, Leg::kWhole);
  tokens("a0", 1, Leg::kWhole, {5, 6, 7, 8}, FinishReason::kLength);
  EXPECT_EQ(observer_.records.at(0).predicted.cached_tokens, 32);
}

}  // namespace
}  // namespace baton::coordinator
