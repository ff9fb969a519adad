#include "coordinator/router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

namespace baton::coordinator {
namespace {

using testing::HasSubstr;

// A small cluster by hand: workers p*, d*, a* are prefill, decode and any; all pairs are up at 1 GB/s.
class RouterTest : public testing::Test {
 protected:
  WorkerDescription& worker(const std::string& name) {
    for (auto& d : descriptions_)
      if (d.ref.name == name) return d;
    WorkerDescription d;
    d.ref = {name, Incarnation(1)};
    d.role = name[0] == 'p' ? WorkerRole::kPrefill : name[0] == 'd' ? WorkerRole::kDecode : WorkerRole::kAny;
    d.model_hash = "m";
    d.kv_layout_hash = "k";
    d.numerics_id = "n";
    d.block_tokens = 16;
    d.context_tokens = 4096;
    d.blocks_total = 1000;
    for (const auto& other : descriptions_) connect(d.ref, other.ref);
    descriptions_.push_back(d);
    router_.prefixes().add(d.ref, d.blocks_total);
    loads_.push_back({.blocks_free = 1000,
                      .step_base_seconds = 0.001,
                      .prefill_seconds_per_token = 0.0002,
                      .decode_seconds_per_sequence = 0.001});
    return descriptions_.back();
  }
  LoadSnapshot& load(const std::string& name) {
    worker(name);
    for (size_t i = 0; i < descriptions_.size(); ++i)
      if (descriptions_[i].ref.name == name) return loads_[i];
    return loads_[0];
  }
  void connect(const WorkerRef& a, const WorkerRef& b) {
    links_.expect(a, b, Instant{});
    links_.report(a, {.peer = b, .connected = true, .bytes_per_second = 1e9}, Instant{});
    links_.report(b, {.peer = a, .connected = true, .bytes_per_second = 1e9}, Instant{});
  }
  absl::StatusOr<Route> route(const RouteRequest& request) const {
    std::vector<RoutableWorker> workers;
    for (size_t i = 0; i < descriptions_.size(); ++i) workers.push_back({&descriptions_[i], loads_[i]});
    return router_.route(request, workers, links_);
  }
  // "p0 d0 remote-prefill", or the status.
  std::string where(const RouteRequest& request) const {
    const auto r = route(request);
    if (!r.ok()) return r.status().ToString();
    return r->prefill.name + " " + r->decode.name + " " + r->path;
  }
  static RouteRequest prompt(int32_t tokens, int32_t max_tokens = 32) {
    return {.prompt_tokens = tokens, .max_tokens = max_tokens};
  }

  std::deque<WorkerDescription> descriptions_;  // references stay valid
  std::deque<LoadSnapshot> loads_;
  PeerLinks links_{std::chrono::seconds(5), std::chrono::seconds(5)};
  Router router_{RouterOptions{}};
};

TEST_F(RouterTest, RolesDecideWhoDoesWhat) {
  struct Case {
    std::vector<std::string> up;
    std::string want;
  };
  const std::vector<Case> cases = {
      {{"p0", "d0"}, "p0 d0 remote-prefill"},
      {{"d0", "p0"}, "p0 d0 remote-prefill"},
      {{"d0", "d1"}, "d0 d0 fallback:no-prefill-worker"},
      {{"p0", "p1"}, "p0 p0 fallback:no-decode-worker"},
      {{"a0"}, "a0 a0 local"},
      {{"a0", "a1"}, "a0 a0 local"},
      {{"a0", "d0"}, "a0 a0 local"},
      {{"p0", "p1", "d0", "d1"}, "p0 d0 remote-prefill"},
      {{}, "UNAVAILABLE: no worker is ready"},
  };
  for (const Case& c : cases) {
    descriptions_.clear();
    loads_.clear();
    for (const auto& name : c.up) worker(name);
    EXPECT_EQ(where(prompt(100)), c.want);
  }
}

TEST_F(RouterTest, QueueAgainstCachedPrefix) {
  // The example of the header: a cache hit is worth its prefill seconds and no more.
  worker("d0");
  load("p0").waiting_prompt_tokens = 500;
  load("p1").waiting_prompt_tokens = 2000;
  const HashKey key{1, 2};
  const std::vector<TokenId> tokens(1000, 5);
  const PromptChain chain{16, chain_hashes(key, "", tokens, 16)};
  router_.prefixes().stored(worker("p1").ref, std::span(chain.hashes).first(50));
  RouteRequest r = prompt(1000);
  r.chains = std::span(&chain, 1);
  EXPECT_EQ(where(r), "p0 d0 remote-prefill");
  load("p1").waiting_prompt_tokens = 1000;
  EXPECT_EQ(where(r), "p1 d0 remote-prefill");
  const auto decided = route(r);
  EXPECT_EQ(decided->terms().cached_tokens, 800);
  EXPECT_NEAR(decided->terms().cached_seconds, 800 * 0.0002 + 3 * 0.001, 1e-9);
}

TEST_F(RouterTest, OfAFullyCachedPromptTheLastRowIsComputed) {
  worker("a0");
  const std::vector<TokenId> tokens(64, 5);
  const PromptChain chain{16, chain_hashes({1, 2}, "", tokens, 16)};
  router_.prefixes().stored(worker("a0").ref, chain.hashes);
  RouteRequest r = prompt(64);
  r.chains = std::span(&chain, 1);
  EXPECT_EQ(route(r)->terms().cached_tokens, 63);
}

TEST_F(RouterTest, ChainsOfAnotherBlockSizeDoNotMatch) {
  worker("a0").block_tokens = 32;
  const std::vector<TokenId> tokens(64, 5);
  const PromptChain chain{16, chain_hashes({1, 2}, "", tokens, 16)};
  router_.prefixes().stored(worker("a0").ref, chain.hashes);
  RouteRequest r = prompt(64);
  r.chains = std::span(&chain, 1);
  EXPECT_EQ(route(r)->terms().cached_tokens, 0);
}

TEST_F(RouterTest, BurstsSpreadBeforeAnyReport) {
  for (const char* name : {"p0", "p1", "d0", "d1"}) worker(name);
  std::map<std::string, int> prefills, decodes;
  for (uint64_t i = 1; i <= 20; ++i) {
    const RouteRequest r = prompt(200);
    const auto decided = route(r);
    ASSERT_TRUE(decided.ok());
    ++prefills[decided->prefill.name];
    ++decodes[decided->decode.name];
    router_.assign(RequestId(i), r, *decided);
  }
  EXPECT_EQ(prefills["p0"], 10);
  EXPECT_EQ(decodes["d0"], 10);
}

TEST_F(RouterTest, BlocksOfUnseenAssignmentsAreTaken) {
  worker("p0");
  load("d0").blocks_free = 20;         // 320 tokens
  const RouteRequest r = prompt(150);  // 10 blocks
  for (uint64_t i = 1; i <= 2; ++i) router_.assign(RequestId(i), r, *route(r));
  EXPECT_THAT(where(r), HasSubstr("RESOURCE_EXHAUSTED"));
  router_.assignments().drop(RequestId(1), worker("d0").ref);
  EXPECT_EQ(where(r), "p0 d0 remote-prefill");
}

TEST_F(RouterTest, CachedBlocksAreRoom) {
  worker("p0");
  load("d0").blocks_free = 1;
  load("d0").blocks_cached = 9;
  EXPECT_EQ(where(prompt(150)), "p0 d0 remote-prefill");
  EXPECT_THAT(where(prompt(160)), HasSubstr("RESOURCE_EXHAUSTED"));
}

TEST_F(RouterTest, DecodeStepWithinTheObjective) {
  worker("p0");
  load("d0").running = 60;  // 62 ms a step: over 50
  load("d1").running = 20;
  load("d1").waiting_prompt_tokens = 100000;  // a decode worker's prefill queue is of no interest to the pair
  EXPECT_EQ(where(prompt(100)), "p0 d1 remote-prefill");
  load("d1").running = 70;  // both over: the lesser
  const auto decided = route(prompt(100));
  EXPECT_EQ(decided->decode.name, "d0");
  EXPECT_TRUE(decided->terms().over_itl);
}

TEST_F(RouterTest, OnlyEqualWorkersPair) {
  worker("p0");
  for (auto field : {&WorkerDescription::model_hash, &WorkerDescription::kv_layout_hash,
                     &WorkerDescription::numerics_id}) {
    const std::string was = worker("d0").*field;
    worker("d0").*field = "other";
    EXPECT_EQ(where(prompt(100)), "d0 d0 fallback:incompatible-workers");
    worker("d0").*field = was;
    EXPECT_EQ(where(prompt(100)), "p0 d0 remote-prefill");
  }
  worker("d0").numerics_id = "other";
  worker("d1");
  EXPECT_EQ(where(prompt(100)), "p0 d1 remote-prefill");
}

TEST_F(RouterTest, LinksPendingWaitLinksDownFallBack) {
  worker("p0");
  worker("d0");
  const auto p = worker("p0").ref, d = worker("d0").ref;
  links_.expect(p, d, Instant{});
  EXPECT_THAT(where(prompt(100)), HasSubstr("UNAVAILABLE"));
  links_.report(p, {.peer = d, .connected = false, .error = "x"}, Instant{});
  EXPECT_EQ(where(prompt(100)), "d0 d0 fallback:no-link");
  connect(p, d);
  EXPECT_EQ(where(prompt(100)), "p0 d0 remote-prefill");
}

TEST_F(RouterTest, TheFasterLinkWins) {
  worker("p0");
  worker("d0");
  worker("d1");
  router_.observe_transfer("k", 1000 * 50'000, 1000);  // 50 kB a token
  const auto p = worker("p0").ref;
  links_.report(p, {.peer = worker("d0").ref, .connected = true, .bytes_per_second = 1e7}, Instant{});
  EXPECT_EQ(where(prompt(1000)), "p0 d1 remote-prefill");
  const auto decided = route(prompt(1000));
  // 50 MB at 1 GB/s take 0.05 s, prefill 0.2 s: all but the last of 16 layers is hidden.
  EXPECT_NEAR(decided->terms().transfer_seconds, 0.001 + 0.05 / 16, 1e-9);
  const CandidateTerms& slow = decided->candidates[0];
  EXPECT_EQ(slow.decode.name, "d0");
  // 5 s at 10 MB/s: what prefill (0.2 s and 4 steps of 1 ms) is too short for is exposed.
  EXPECT_NEAR(slow.transfer_seconds, 0.001 + 5.0 - 0.204, 1e-9);
}

TEST_F(RouterTest, ShortPromptsStayBehindTheFence) {
  RouterOptions options;
  options.min_prompt_tokens = 64;
  Router fenced(options);
  worker("p0");
  worker("d0");
  std::vector<RoutableWorker> workers;
  for (size_t i = 0; i < descriptions_.size(); ++i) workers.push_back({&descriptions_[i], loads_[i]});
  EXPECT_EQ(fenced.route(prompt(63), workers, links_)->path, "local");
  EXPECT_EQ(fenced.route(prompt(63), workers, links_)->prefill.name, "d0");
  EXPECT_EQ(fenced.route(prompt(64), workers, links_)->path, "remote-prefill");
}

TEST_F(RouterTest, DecodeWorkersTakeShortPromptsOffAQueueWhenTheyMay) {
  worker("p0");
  worker("d0");
  load("p0").waiting_prompt_tokens = 1000;
  EXPECT_EQ(where(prompt(256)), "p0 d0 remote-prefill") << "not unless told";
  RouterOptions options;
  options.decode_prefill_tokens = 256;
  Router may(options);
  const auto where_then = [&](int32_t tokens) {
    std::vector<RoutableWorker> workers;
    for (size_t i = 0; i < descriptions_.size(); ++i) workers.push_back({&descriptions_[i], loads_[i]});
    const auto route = may.route(prompt(tokens), workers, links_);
    return route.ok() ? route->prefill.name + " " + route->decode.name + " " + route->path
                      : route.status().ToString();
  };
  EXPECT_EQ(where_then(256), "d0 d0 local");
  EXPECT_EQ(where_then(257), "p0 d0 remote-prefill") << "too long";
  // Other prompts there and rows that decode beside it count: p0 has 0.2 s to do.
  load("d0").waiting_prompt_tokens = 2000;
  EXPECT_EQ(where_then(256), "p0 d0 remote-prefill");
  load("d0").waiting_prompt_tokens = 0;
  // Each stream that it would delay by 54 ms and more counts: two make 0.163 s, five 0.34 s, against 0.26 s.
  load("d0").running = 2;
  EXPECT_EQ(where_then(256), "d0 d0 local");
  load("d0").running = 5;
  EXPECT_EQ(where_then(256), "p0 d0 remote-prefill");
  load("d0").running = 0;
  load("p0").waiting_prompt_tokens = 2;
  EXPECT_EQ(where_then(256), "d0 d0 local") << "nobody is delayed";
  load("p0").waiting_prompt_tokens = 0;
  EXPECT_EQ(where_then(16), "p0 d0 remote-prefill") << "an idle prefill worker takes it";
  load("p0").waiting_prompt_tokens = 1000;
  worker("p1");
  EXPECT_EQ(where_then(256), "p1 d0 remote-prefill") << "the other prefill worker is idle";
}

TEST_F(RouterTest, BusyWorkersWaitAvoidedOnesAreTheLastChoice) {
  const auto p0 = worker("p0").ref, d0 = worker("d0").ref, d1 = worker("d1").ref;
  RouteRequest r = prompt(100);
  r.busy = std::span(&d0, 1);
  EXPECT_EQ(where(r), "p0 d1 remote-prefill");
  r.busy = std::span(&p0, 1);
  EXPECT_THAT(where(r), HasSubstr("ABORTED"));
  r.busy = {};
  r.avoid = std::span(&d0, 1);
  EXPECT_EQ(where(r), "p0 d1 remote-prefill");
  r.avoid = std::span(&p0, 1);
  EXPECT_EQ(where(r), "d0 d0 fallback:no-prefill-worker");
  const std::vector<WorkerRef> all = {d0, d1, p0};
  r.avoid = all;
  EXPECT_EQ(where(r), "p0 d0 remote-prefill");
}

TEST_F(RouterTest, SilentWorkersGetNothingAndAreWaitedForWhenNobodyElseDoesWhatTheyDo) {
  worker("p0");
  worker("p1");
  worker("d0");
  std::vector<RoutableWorker> workers;
  for (size_t i = 0; i < descriptions_.size(); ++i) workers.push_back({&descriptions_[i], loads_[i]});
  workers[0].silent = true;
  EXPECT_EQ(router_.route(prompt(100), workers, links_)->prefill.name, "p1");
  workers[1].silent = true;
  const auto none = router_.route(prompt(100), workers, links_).status();
  EXPECT_TRUE(absl::IsUnavailable(none));
  EXPECT_THAT(std::string(none.message()), HasSubstr("is silent"));
  workers[1].silent = false;
  workers[2].silent = true;
  EXPECT_TRUE(absl::IsUnavailable(router_.route(prompt(100), workers, links_).status()));
  RouteRequest whole = prompt(100);
  whole.whole_because = "transfer-failed";
  EXPECT_EQ(router_.route(whole, workers, links_)->path, "fallback:transfer-failed");
  EXPECT_EQ(router_.route(whole, workers, links_)->decode.name, "p1");
}

TEST_F(RouterTest, WholeOnRequest) {
  worker("p0");
  worker("d0");
  RouteRequest r = prompt(100);
  r.whole_because = "transfer-failed";
  EXPECT_EQ(where(r), "d0 d0 fallback:transfer-failed");
}

TEST_F(RouterTest, WhatFitsNobodyIsInvalid) {
  worker("p0");
  worker("d0");
  EXPECT_THAT(where(prompt(4090, 7)), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_EQ(where(prompt(4090, 6)), "p0 d0 remote-prefill");
  worker("d0").blocks_total = 10;
  load("d0") = {};  // no snapshot yet: the whole pool is there
  EXPECT_THAT(where(prompt(160)), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_EQ(where(prompt(159)), "p0 d0 remote-prefill");
}

TEST_F(RouterTest, ExplainsEveryCandidate) {
  for (const char* name : {"p0", "p1", "d0"}) worker(name);
  load("p0").waiting_prompt_tokens = 5000;
  const std::string text = route(prompt(100))->explain();
  EXPECT_THAT(text, HasSubstr("remote-prefill\n"));
  EXPECT_THAT(text, HasSubstr("  p0 -> d0 total"));
  EXPECT_THAT(text, HasSubstr("* p1 -> d0 total"));
}

TEST_F(RouterTest, NothingSurvivesForget) {
  worker("a0");
  const auto ref = worker("a0").ref;
  const std::vector<BlockHash> blocks = {{1, 1}};
  router_.prefixes().stored(ref, blocks);
  router_.assign(RequestId(1), prompt(100), *route(prompt(100)));
  router_.forget(ref);
  EXPECT_EQ(router_.prefixes().cached_blocks(ref, blocks), 0);
  EXPECT_EQ(router_.assignments().unseen(ref).prefill_tokens, 0);
}

}  // namespace
}  // namespace baton::coordinator
