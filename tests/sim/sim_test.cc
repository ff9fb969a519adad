// Thousands of requests through the real coordinator and the real engines on virtual time, from one seed.
//   sim_test [--seed N]      (or BATON_SEED=N); BATON_SIM_LOG=FILE writes the events of the last run
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/sim/sim_cluster.h"
#include "tests/support/seed.h"

namespace baton::sim {

uint64_t g_seed = 20241121;  // set by main

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const support::KvHashOptions kModel;

// What one client saw. Its tokens are compared with the undisturbed run when it ends.
class Client : public coordinator::RequestSink {
 public:
  void on_event(RequestId, coordinator::RequestEvent event) override {
    EXPECT_FALSE(ended()) << "an event after the end";
    EXPECT_FALSE(left) << "an event after the client left";
    if (const auto* more = std::get_if<coordinator::Tokens>(&event)) {
      EXPECT_EQ(started, 1) << "tokens before Started";
      for (const TokenOutput& t : more->tokens) tokens.push_back(t.token);
    } else if (std::holds_alternative<coordinator::Started>(event)) {
      ++started;
    } else if (const auto* end = std::get_if<coordinator::Finished>(&event)) {
      finished = *end;
    } else {
      failed = std::get<coordinator::Failed>(event).status;
    }
  }
  bool ended() const { return finished.has_value() || failed.has_value(); }

  GenerateRequest request;
  std::vector<TokenId> tokens;
  int started = 0;
  bool left = false;
  std::optional<coordinator::Finished> finished;
  std::optional<absl::Status> failed;
};

struct Scenario {
  SimOptions cluster;
  int requests = 0;
  Duration between{};                // mean of the arrivals
  double disconnects = 0;            // share of clients that leave, at any time
  Duration kill_every{};             // 0: never
  std::vector<std::string> victims;  // who is killed; empty: anybody
  std::string stands_still;          // whose engine stops in a step, after a second
  int32_t longest_output = 24;
};

struct Outcome {
  uint64_t hash = 0;
  int finished = 0, left = 0, exhausted = 0, unavailable = 0, other = 0;
  std::map<std::string, int> paths;
  coordinator::FlowCounters counters;
  uint64_t events = 0;
  uint64_t cached_tokens = 0;
  uint64_t preemptions = 0;
};

// Prompts share prefixes; lengths sit around block edges as well as far from them.
GenerateRequest make_request(Rng& rng, uint64_t id, const Scenario& scenario) {
  const SimOptions& options = scenario.cluster;
  const int64_t room = std::min<int64_t>(options.context_tokens, options.blocks * options.block_tokens) -
                       scenario.longest_output - 8;
  GenerateRequest r;
  r.id = RequestId(id);
  r.tenant_salt = rng.below(4) == 0 ? "other" : "";
  const uint64_t prefix = rng.below(20);
  const auto shared = static_cast<int32_t>(rng.below(3) == 0 ? 0 : 8 * (1 + prefix));
  for (int32_t i = 0; i < shared; ++i)
    r.prompt.push_back(static_cast<TokenId>((prefix * 131 + i * 7) % 1000));
  int32_t own = 1 + static_cast<int32_t>(rng.below(60));
  if (rng.below(50) == 0) own = 200 + static_cast<int32_t>(rng.below(400));
  if (rng.below(10) == 0) own = options.block_tokens * (1 + static_cast<int32_t>(rng.below(3))) - shared % 16;
  for (int32_t i = 0; i < own; ++i) r.prompt.push_back(static_cast<TokenId>(rng.below(1000)));
  if (static_cast<int64_t>(r.prompt.size()) > room)
    r.prompt.resize(static_cast<size_t>(room));  // the gateway checks
  r.stop.max_tokens = rng.below(20) == 0 ? 1 : 1 + static_cast<int32_t>(rng.below(scenario.longest_output));
  if (rng.below(4) == 0) {
    for (TokenId end = 0; end < 60; ++end) r.stop.end_token_ids.push_back(end);
    r.stop.min_tokens = static_cast<int32_t>(rng.below(3));
  }
  r.sampling.temperature = rng.below(2) == 0 ? 0.0f : 1.0f;
  r.sampling.seed = rng.next();
  return r;
}

void verify(const Client& client, const SimOptions& options, Outcome& outcome) {
  const std::vector<TokenId> want = support::kvhash_reference(client.request, options.layers, kModel);
  const size_t seen = client.tokens.size();
  ASSERT_LE(seen, want.size());
  ASSERT_TRUE(std::equal(client.tokens.begin(), client.tokens.end(), want.begin()))
      << to_string(client.request.id) << ": tokens differ from the undisturbed run";
  if (client.finished.has_value()) {
    ASSERT_EQ(seen, want.size());
    ASSERT_EQ(client.finished->usage.completion_tokens, static_cast<int32_t>(seen));
    ASSERT_EQ(client.finished->usage.prompt_tokens, static_cast<int32_t>(client.request.prompt.size()));
    ++outcome.finished;
    ++outcome.paths[client.finished->verdict.path];
    outcome.cached_tokens += static_cast<uint64_t>(client.finished->usage.cached_tokens);
  } else if (client.left) {
    ++outcome.left;
  } else {
    ASSERT_TRUE(client.failed.has_value()) << to_string(client.request.id) << " never ended";
    const absl::StatusCode code = client.failed->code();
    ++(code == absl::StatusCode::kResourceExhausted ? outcome.exhausted
       : code == absl::StatusCode::kUnavailable     ? outcome.unavailable
                                                    : outcome.other);
    EXPECT_TRUE(code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kUnavailable)
        << to_string(client.request.id) << " " << *client.failed;
  }
}

class Simulation {
 public:
  explicit Simulation(const Scenario& scenario)
      : scenario_(scenario), cluster_(scenario.cluster), clients_(static_cast<size_t>(scenario.requests)) {}

  Outcome go() {
    Outcome outcome;
    cluster_.after(milliseconds(20), [this] { arrive(0); });
    if (scenario_.kill_every > Duration::zero()) cluster_.after(scenario_.kill_every, [this] { kill_one(); });
    if (!scenario_.stands_still.empty())
      cluster_.after(seconds(1), [this] { cluster_.stand_still(scenario_.stands_still); });
    EXPECT_TRUE(
        cluster_.run([this] { return all_ended() && noticed(); }, cluster_.now() + std::chrono::hours(1)))
        << "requests that never end: " << cluster_.why_not_quiet();
    // G3: two seconds later (ten after a crash) nothing is left of them.
    const bool calm = scenario_.kill_every == Duration::zero() && scenario_.stands_still.empty();
    const Duration grace = calm ? seconds(2) : seconds(10);
    EXPECT_TRUE(cluster_.run([this] { return cluster_.quiet(); }, cluster_.now() + grace))
        << cluster_.why_not_quiet();
    for (const auto& client : clients_) {
      verify(*client, scenario_.cluster, outcome);
      if (::testing::Test::HasFatalFailure()) break;
    }
    for (const auto& [name, worker] : cluster_.workers())
      outcome.preemptions += static_cast<uint64_t>(worker->engine().counters().preemptions);
    outcome.hash = cluster_.log().hash();
    outcome.counters = cluster_.core().flow().counters();
    outcome.events = cluster_.events();
    return outcome;
  }

 private:
  Duration random(Duration mean) {
    return from_seconds(-to_seconds(mean) * std::log(1.0 - cluster_.rng().next_double()));
  }
  bool all_ended() {
    while (first_open_ < clients_.size() && clients_[first_open_] != nullptr &&
           (clients_[first_open_]->ended() || clients_[first_open_]->left))
      ++first_open_;
    return first_open_ == clients_.size();
  }
  // What it was given before it was suspect ends by retries; what it holds ends with it.
  bool noticed() {
    return scenario_.stands_still.empty() || cluster_.core().flow().counters().workers_lost > 0;
  }
  void arrive(size_t index) {
    auto client = std::make_shared<Client>();
    clients_[index] = client;
    client->request = make_request(cluster_.rng(), index + 1, scenario_);
    cluster_.submit(client->request, client);
    if (cluster_.rng().next_double() < scenario_.disconnects) {
      cluster_.after(random(milliseconds(60)), [this, client] {
        if (client->ended()) return;
        client->left = true;
        cluster_.cancel(client->request.id);
      });
    }
    if (index + 1 < clients_.size())
      cluster_.after(random(scenario_.between), [this, index] { arrive(index + 1); });
  }
  void kill_one() {
    if (all_ended()) return;
    const auto& names = scenario_.victims.empty() ? scenario_.cluster.workers : scenario_.victims;
    const std::string& name = names[cluster_.rng().below(names.size())];
    const bool frozen = cluster_.rng().below(4) == 0;
    cluster_.kill(name, frozen, milliseconds(50 + cluster_.rng().below(3000)));
    cluster_.after(random(scenario_.kill_every), [this] { kill_one(); });
  }

  const Scenario scenario_;
  SimCluster cluster_;
  std::vector<std::shared_ptr<Client>> clients_;
  size_t first_open_ = 0;
};

void print(const char* name, const Outcome& o) {
  std::printf(
      "%s: seed %llu hash %016llx events %llu finished %d left %d 429 %d 503 %d preempted %llu cached %llu\n",
      name, static_cast<unsigned long long>(g_seed), static_cast<unsigned long long>(o.hash),
      static_cast<unsigned long long>(o.events), o.finished, o.left, o.exhausted, o.unavailable,
      static_cast<unsigned long long>(o.preemptions), static_cast<unsigned long long>(o.cached_tokens));
  for (const auto& [path, count] : o.paths) std::printf("  %s %d\n", path.c_str(), count);
  std::printf(
      "  ack timeouts %llu retries %llu (moves %llu) refusals %llu fenced %llu late %llu replayed %llu lost "
      "%llu overdue "
      "%llu\n",
      static_cast<unsigned long long>(o.counters.ack_timeouts),
      static_cast<unsigned long long>(o.counters.retries), static_cast<unsigned long long>(o.counters.moves),
      static_cast<unsigned long long>(o.counters.refusals),
      static_cast<unsigned long long>(o.counters.fenced_messages),
      static_cast<unsigned long long>(o.counters.late_messages),
      static_cast<unsigned long long>(o.counters.replayed_tokens),
      static_cast<unsigned long long>(o.counters.workers_lost),
      static_cast<unsigned long long>(o.counters.release_overdue));
}

Scenario steady(uint64_t seed, int requests) {
  Scenario s;
  s.cluster.seed = seed;
  s.cluster.control.flow.hash_key = {seed, 7};
  s.requests = requests;
  s.between = from_seconds(0.0025);
  s.disconnects = 0.1;
  return s;
}

void nothing_impossible(const Outcome& o) {
  EXPECT_EQ(o.other, 0);
  EXPECT_EQ(o.counters.protocol_errors, 0u);
  EXPECT_EQ(o.counters.replay_mismatches, 0u);
  // A leg whose source froze is quarantined until the source is fenced (1.5 s, and the fence may stall): only
  // with a loss may a Release go unanswered for so long.
  EXPECT_LE(o.counters.release_overdue, o.counters.workers_lost);
}

TEST(Sim, TenThousandRequestsWithDisconnects) {
  const Outcome o = Simulation(steady(g_seed, 10000)).go();
  print("steady", o);
  nothing_impossible(o);
  EXPECT_EQ(o.finished + o.left + o.exhausted, 10000);
  EXPECT_GE(o.finished, 8000);
  EXPECT_GE(o.left, 200);
  EXPECT_GE(o.paths.at("remote-prefill"), 1000);
  EXPECT_GE(o.paths.at("local"), 100);
  EXPECT_GT(o.cached_tokens, 0u);
  EXPECT_EQ(o.counters.workers_lost, 0u);
  const Outcome again = Simulation(steady(g_seed, 10000)).go();
  EXPECT_EQ(again.hash, o.hash) << "the same seed gave other events";
  EXPECT_EQ(again.events, o.events);
}

TEST(Sim, AnotherSeedIsAnotherRun) {
  EXPECT_NE(Simulation(steady(g_seed, 50)).go().hash, Simulation(steady(g_seed + 1, 50)).go().hash);
}

// Pools so small that requests wait for blocks and are preempted, and more arrive than can be served.
TEST(Sim, TinyPoolsMakeProgress) {
  Scenario s = steady(g_seed + 2, 1500);
  s.cluster.blocks = 40;
  s.cluster.context_tokens = 600;
  s.cluster.control.flow.max_queued = 100;
  s.longest_output = 160;
  s.between = milliseconds(6);
  s.disconnects = 0.2;
  const Outcome o = Simulation(s).go();
  print("tiny", o);
  nothing_impossible(o);
  EXPECT_EQ(o.finished + o.left + o.exhausted, 1500);
  EXPECT_GE(o.finished, 300);
  EXPECT_GT(o.exhausted, 0);  // the queue was full
  EXPECT_GT(o.preemptions, 0u);
}

// The same with host memory behind the pools: more is found again.
TEST(Sim, TinyPoolsWithHostMemory) {
  Scenario s = steady(g_seed + 6, 1500);
  s.cluster.blocks = 40;
  s.cluster.context_tokens = 600;
  const Outcome without = Simulation(s).go();
  s.cluster.host_blocks = 2000;
  const Outcome o = Simulation(s).go();
  print("tiny, with host memory", o);
  nothing_impossible(o);
  EXPECT_EQ(o.finished + o.left + o.exhausted, 1500);
  EXPECT_GT(o.cached_tokens, without.cached_tokens * 5 / 4);
  EXPECT_EQ(Simulation(s).go().hash, o.hash);
}

// decodePrefillTokens: decode workers take short prompts off the queue of the only prefill worker, the tokens
// stay the same, with deaths as without; and nobody does it who was not told to.
TEST(Sim, DecodeWorkersTakeShortPromptsOffAQueue) {
  for (const Duration kill_every : {Duration{}, Duration{milliseconds(700)}}) {
    Scenario s = steady(g_seed + 7, 1500);
    s.cluster.workers = {"p0", "d0", "d1"};
    s.between = milliseconds(6);
    s.kill_every = kill_every;
    s.victims = {"p0", "d0"};
    Outcome fenced = Simulation(s).go();
    EXPECT_EQ(fenced.paths["local"], 0);
    s.cluster.control.router.decode_prefill_tokens = 200;
    Outcome o = Simulation(s).go();
    print("decode workers take short prompts", o);
    nothing_impossible(o);
    EXPECT_GT(o.paths["local"], 20);
    EXPECT_GT(o.paths["remote-prefill"], 100);
    EXPECT_GE(o.finished, fenced.finished * 9 / 10);
    EXPECT_EQ(Simulation(s).go().hash, o.hash);
  }
}

Scenario killing(uint64_t seed, bool drains) {
  Scenario s = steady(seed, 2000);
  s.between = milliseconds(15);
  s.kill_every = milliseconds(700);
  s.cluster.transfer_fault = 0.02;
  s.cluster.stall = 0.0005;
  s.cluster.drains_after_death = drains;
  if (!drains) s.cluster.host_blocks = 500;
  return s;
}

void kills_and_restarts(uint64_t seed, bool drains) {
  const Outcome o = Simulation(killing(seed, drains)).go();
  print("killing", o);
  nothing_impossible(o);
  EXPECT_EQ(o.finished + o.left + o.exhausted + o.unavailable, 2000);
  EXPECT_GE(o.finished, 1500);
  EXPECT_LE(o.unavailable, 20);  // who was on three workers that were lost
  EXPECT_GT(o.counters.workers_lost, 10u);
  EXPECT_GT(o.counters.moves, 0u);
  EXPECT_GT(o.counters.fenced_messages, 0u);
  EXPECT_GT(o.counters.replayed_tokens, 0u);
  EXPECT_EQ(Simulation(killing(seed, drains)).go().hash, o.hash);
}

TEST(Sim, KillsAndRestarts) { kills_and_restarts(g_seed + 3, true); }

// What a dead source left half landed is quarantined until its fence comes.
TEST(Sim, KillsWhereOnlyFencesDrain) { kills_and_restarts(g_seed + 4, false); }

// Only sources die, so nothing but their fences frees what they left half landed in workers that live on.
TEST(Sim, FencesFreeWhatDeadSourcesLeft) {
  Scenario s = killing(g_seed + 5, false);
  s.cluster.workers = {"p0", "p1", "d0", "d1"};
  s.cluster.stall = 0;
  s.cluster.transfer_fault = 0;
  s.victims = {"p0", "p1"};
  s.requests = 5000;
  s.between = milliseconds(4);
  s.kill_every = milliseconds(300);
  const Outcome o = Simulation(s).go();
  print("sources die", o);
  nothing_impossible(o);
  EXPECT_GE(o.counters.workers_lost, 8u);
  EXPECT_GE(o.counters.retries, 5u);
  EXPECT_EQ(o.counters.release_overdue, 0u);
}

// A worker whose process answers while its engine stands: what it has ends with it, everybody else's goes on.
TEST(Sim, AnEngineThatStandsStillIsLost) {
  for (const char* const name : {"d0", "p0"}) {
    Scenario s = steady(g_seed + 7, 2000);
    s.stands_still = name;
    const Outcome o = Simulation(s).go();
    print("stands still", o);
    EXPECT_EQ(o.other, 0);  // releases are overdue until the worker is lost: its engine answers none
    EXPECT_EQ(o.counters.protocol_errors + o.counters.replay_mismatches, 0u);
    EXPECT_EQ(o.counters.workers_lost, 1u) << name;
    EXPECT_EQ(o.finished + o.left + o.exhausted + o.unavailable, 2000);
    EXPECT_GE(o.finished, 1500);
    EXPECT_EQ(Simulation(s).go().hash, o.hash);
  }
}

TEST(Sim, ManySmallSeeds) {
  for (uint64_t i = 0; i < 20; ++i) {
    SCOPED_TRACE(::testing::Message() << "seed " << g_seed + 100 + i);
    Scenario s = killing(g_seed + 100 + i, i % 2 == 0);
    s.requests = 100;
    s.cluster.blocks = 40 + static_cast<int64_t>(i % 3) * 30;
    s.cluster.context_tokens = 640;
    s.cluster.host_blocks = static_cast<int64_t>(i % 4) * 100;
    if (i % 4 == 1) s.cluster.workers = {"p0", "d0"};
    if (i % 4 == 2) s.cluster.workers = {"p0", "d0", "d1"};
    if (i % 5 == 3) s.cluster.control.flow.on_prefill_failure = coordinator::PrefillFailure::kError;
    nothing_impossible(Simulation(s).go());
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace baton::sim

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const auto seed = baton::support::given_seed()) baton::sim::g_seed = *seed;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--seed") == 0) baton::sim::g_seed = std::strtoull(argv[i + 1], nullptr, 10);
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(baton::sim::g_seed));
  return RUN_ALL_TESTS();
}
