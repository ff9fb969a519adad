#include "transport/rpc/report_merge.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/transport/rpc/event_log.h"
#include "tests/transport/rpc/random_messages.h"
#include "transport/rpc/codec.h"
#include "transport/rpc/control_client.h"
#include "transport/rpc/control_server.h"

namespace baton::transport {
namespace {

BlockHash hash(uint64_t n) { return {n, n}; }

// What a coordinator knows after a row of reports.
struct Known {
  struct Said {
    std::vector<TokenOutput> tokens, prompt_tokens;
    std::vector<FinishReason> ends;
    std::vector<std::string> errors;
    int32_t cached = 0;
    size_t behind_the_end = 0;
    Duration queued{}, prefill{};
    friend bool operator==(const Said&, const Said&) = default;
  };
  void hear(const StepReport& report) {
    for (const BlockHash& block : report.blocks_evicted) blocks.erase({block.lo, block.hi});
    for (const BlockHash& block : report.blocks_stored) blocks.insert({block.lo, block.hi});
    for (const SequenceTokens& s : report.sequences) {
      Said& to = said[{s.request.value(), static_cast<int>(s.leg)}];
      if (!to.ends.empty()) to.behind_the_end += s.tokens.size();  // which comes first counts
      to.tokens.insert(to.tokens.end(), s.tokens.begin(), s.tokens.end());
      to.prompt_tokens.insert(to.prompt_tokens.end(), s.prompt_tokens.begin(), s.prompt_tokens.end());
      if (s.finish != FinishReason::kNone) to.ends.push_back(s.finish);
      if (!s.error.empty()) to.errors.push_back(s.error);
      to.cached += s.cached_tokens;
      to.queued += s.queued;
      to.prefill += s.prefill;
    }
    step = report.step;
    load = report.load;
  }
  std::map<std::pair<uint64_t, int>, Said> said;
  std::set<std::pair<uint64_t, uint64_t>> blocks;
  StepId step;
  LoadSnapshot load;
  friend bool operator==(const Known&, const Known&) = default;
};

class Reports {
 public:
  explicit Reports(uint64_t seed) : rng_(seed), random_(seed + 1) {}
  StepReport next() {
    StepReport report{.step = StepId(++step_), .load = random_.load()};
    for (uint64_t n = rng_.below(3); n > 0; --n) report.blocks_stored.push_back(hash(rng_.below(6)));
    if (rng_.below(4) == 0) report.blocks_evicted.push_back(hash(rng_.below(6)));
    for (uint64_t request = 1; request <= 4; ++request)
      if (rng_.below(2) == 0) report.sequences.push_back(sequence(request));
    return report;
  }

 private:
  SequenceTokens sequence(uint64_t request) {
    SequenceTokens s{.request = RequestId(request), .leg = rng_.below(2) == 0 ? Leg::kWhole : Leg::kDecode};
    for (uint64_t n = rng_.below(3); n > 0; --n)
      s.tokens.push_back({.token = static_cast<TokenId>(rng_.below(1000)), .logprob = -1, .top = {}});
    if (rng_.below(8) == 0) s.prompt_tokens.push_back({.token = 5, .logprob = -2, .top = {}});
    if (rng_.below(8) == 0) s.cached_tokens = 16;
    if (rng_.below(8) == 0) s.queued = Duration(1 + rng_.below(100));
    if (rng_.below(8) == 0) s.prefill = Duration(1 + rng_.below(100));
    if (rng_.below(16) == 0) s.finish = FinishReason::kLength;
    if (rng_.below(32) == 0) s.error = "broken";
    return s;
  }
  Rng rng_;
  RandomMessages random_;
  uint64_t step_ = 0;
};

wire::WorkerMessage coded(const WorkerMessage& message) {
  wire::WorkerMessage out;
  encode(message, out);
  return out;
}

StepReport report_of(const wire::WorkerMessage& message) {
  const auto decoded = decode(message);
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  return std::get<StepReport>(*decoded);
}

TEST(ReportMerge, SaysTheSameInFewerMessages) {
  const uint64_t seed = test_seed();
  int merged = 0, kept = 0;
  for (uint64_t round = 0; round < 500; ++round) {
    Reports reports(seed + 2 * round);
    Known one_by_one, together;
    wire::WorkerMessage last;
    for (int i = 0; i < 12; ++i) {
      const StepReport report = reports.next();
      one_by_one.hear(report);
      wire::WorkerMessage next = coded(report);
      if (i > 0 && merge_reports(last, next)) {
        ++merged;
        continue;
      }
      if (i > 0) together.hear(report_of(last));
      kept += i > 0;
      last.Swap(&next);
    }
    together.hear(report_of(last));
    ASSERT_TRUE(one_by_one.said == together.said) << "round " << round;
    ASSERT_TRUE(one_by_one.blocks == together.blocks) << "round " << round;
    ASSERT_TRUE(one_by_one.load == together.load && one_by_one.step == together.step) << "round " << round;
  }
  EXPECT_GT(merged, 500);
  EXPECT_GT(kept, 500);
}

TEST(ReportMerge, TokensOfASequenceAreOneList) {
  SequenceTokens a{.request = RequestId(1), .tokens = {{.token = 7}}, .cached_tokens = 16};
  SequenceTokens b{.request = RequestId(1), .tokens = {{.token = 8}}, .finish = FinishReason::kLength};
  wire::WorkerMessage last = coded(StepReport{.step = StepId(1), .sequences = {a}});
  wire::WorkerMessage next = coded(StepReport{.step = StepId(2), .sequences = {b}});
  ASSERT_TRUE(merge_reports(last, next));
  const StepReport report = report_of(last);
  ASSERT_EQ(report.sequences.size(), 1u);
  EXPECT_EQ(report.sequences[0].tokens.size(), 2u);
  EXPECT_EQ(report.sequences[0].finish, FinishReason::kLength);
  EXPECT_EQ(report.sequences[0].cached_tokens, 16);
  EXPECT_EQ(report.step, StepId(2));
}

TEST(ReportMerge, NothingElseIsMerged) {
  wire::WorkerMessage report = coded(StepReport{.step = StepId(1)});
  wire::WorkerMessage released = coded(Released{RequestId(1), Leg::kWhole});
  const std::string before = report.SerializeAsString();
  EXPECT_FALSE(merge_reports(report, released));
  EXPECT_FALSE(merge_reports(released, report));
  wire::WorkerMessage evicts = coded(StepReport{.step = StepId(2), .blocks_evicted = {hash(1)}});
  EXPECT_FALSE(merge_reports(report, evicts));
  EXPECT_EQ(report.SerializeAsString(), before);
}

// Over a real stream, with replies in between that no token may overtake.
TEST(ReportMerge, AFloodOfStepsArrivesWholeAndInOrder) {
  EventLog<ControlServerEvent> server_log;
  EventLog<ControlClientEvent> client_log;
  auto server = ControlServer::start({}, some_worker("w", 7), server_log.sink());
  ASSERT_TRUE(server.ok()) << server.status();
  ControlClient client({.coordinator_id = "a", .term = 1, .hash_key = {1, 2}}, client_log.sink());
  const WorkerRef worker{"w", Incarnation(7)};
  ASSERT_TRUE(client.connect(worker, (*server)->worker().control_address).ok());
  const auto turn = [&] { client.tick(SteadyClock().now()); };
  ASSERT_TRUE(turn_until(turn, [&] { return client_log.count<WorkerStreamOpened>() == 1; }));
  const StreamId stream = server_log.all<CoordinatorOpened>()[0].stream;
  constexpr int kSteps = 5000;
  for (int i = 0; i < kSteps; ++i) {
    const SequenceTokens s{.request = RequestId(1), .tokens = {{.token = i}}};
    ASSERT_TRUE((*server)->send(stream, StepReport{.step = StepId(i + 1), .sequences = {s}}));
    if (i % 1000 != 999) continue;
    ASSERT_TRUE((*server)->send(stream, Released{RequestId(i), Leg::kWhole}));
  }
  ASSERT_TRUE(turn_until(turn, [&] {
    const auto said = client_log.all<WorkerSaid>();
    return !said.empty() &&
           said.back().message == WorkerMessage(Released{RequestId(kSteps - 1), Leg::kWhole});
  }));
  TokenId next = 0;
  for (const WorkerSaid& said : client_log.all<WorkerSaid>()) {
    if (const auto* released = std::get_if<Released>(&said.message)) {
      EXPECT_EQ(released->request.value(), static_cast<uint64_t>(next) - 1);
    } else if (const auto* report = std::get_if<StepReport>(&said.message)) {
      for (const SequenceTokens& s : report->sequences)
        for (const TokenOutput& token : s.tokens) ASSERT_EQ(token.token, next++);
    }
  }
  EXPECT_EQ(next, kSteps);
}

}  // namespace
}  // namespace baton::transport
