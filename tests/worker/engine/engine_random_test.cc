#include <cstdlib>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/worker/engine/engine_fixture.h"

// Three engines of any role, small pools, random legs, lengths, releases, deadlines, transfer faults and
// jitter, most of them with a host tier of random size and speed: every leg ends, every finished request has
// its tokens, and nothing is left behind. With one plan at a time, with those of a pipeline, and on a device
// that feeds tokens back.
namespace baton::worker {
namespace {

using namespace std::chrono_literals;

struct Placed {
  GenerateRequest request;
  bool split = false;
  size_t prefill = 0;
  size_t decode = 0;
};

enum class Kind { kPlain, kPipeline, kFedBack };

class EngineRandomTest : public EngineFixture {
 protected:
  // Of a pipeline the later stages' layers are computed late; KV is handed over by whole workers only.
  void build(Rng& rng, Kind kind = Kind::kPlain, int plans_in_flight = 1) {
    auto options = defaults();
    pipeline_ = kind == Kind::kPipeline;
    options.engine.scheduler.plans_in_flight = plans_in_flight;
    options.model.late_layers = pipeline_ ? 1 : 0;
    if (kind == Kind::kFedBack) {
      options.model.feeds_back = true;
      options.model.sick = RequestId(17);  // the second of its tokens is fed before anybody knows
      options.model.sick_at = 1;
      options.engine.scheduler.feeds_back = [](const GenerateRequest& r) { return r.id.value() % 7 != 0; };
    }
    options.engine.blocks = 8 + static_cast<int64_t>(rng.below(40));
    options.engine.scheduler.token_budget = 32;
    options.engine.scheduler.headroom_tokens = static_cast<int32_t>(rng.below(12));
    options.engine.scheduler.itl_objective = std::chrono::microseconds(1000 + rng.below(8000));
    options.check_every_step = true;
    options.kv.jitter = [&rng](Duration d) { return d * (1 + static_cast<int>(rng.below(8))) / 2; };
    options.kv.drain_delay = 2ms;
    const uint64_t faulty = rng.below(3);
    options.engine.host.slots = rng.below(4) == 0 ? 0 : 1 + static_cast<int64_t>(rng.below(200));
    options.engine.scheduler.fetch_wait = std::chrono::microseconds(500 + rng.below(20'000));
    options.engine.scheduler.least_fetch = static_cast<int32_t>(rng.below(12));
    options.host.block_delay = std::chrono::microseconds(1 + rng.below(400));
    options.host.jitter = options.kv.jitter;
    if (rng.below(4) == 0) options.host.fails = [&rng](const HostCopy&) { return rng.below(100) == 0; };
    if (faulty > 0) options.kv.fails = [&rng, faulty](TransferId, int) { return rng.below(60) < faulty; };
    make(options, 3);
  }
  Placed random_request(Rng& rng, uint64_t id) {
    Placed placed;
    const auto room = static_cast<int>(options_.engine.blocks) * kBlock;
    const int prompt = 1 + static_cast<int>(rng.below(static_cast<uint64_t>(std::min(room - 2, 90))));
    const int most = 1 + static_cast<int>(rng.below(static_cast<uint64_t>(std::min(room - prompt, 25))));
    placed.request = request(id, prompt, most, static_cast<TokenId>(100 * rng.below(3)));
    placed.request.tenant_salt = rng.below(4) == 0 ? "other" : "";
    placed.request.sampling.temperature = static_cast<float>(rng.below(2));
    placed.request.sampling.seed = rng.below(2);
    if (rng.below(5) == 0) placed.request.stop.end_token_ids = {reference(placed.request).back()};
    if (rng.below(10) == 0) placed.request.time_left = std::chrono::milliseconds(rng.below(60));
    if (rng.below(8) == 0) placed.request.sampling.prompt_logprobs = 1;
    placed.prefill = rng.below(3);
    placed.decode = rng.below(3);
    if (pipeline_) placed.prefill = placed.decode;
    placed.split = placed.prefill != placed.decode;
    return placed;
  }
  void submit(const Placed& placed) {
    if (placed.split)
      world().submit_split(placed.prefill, placed.decode, placed.request);
    else
      world().submit(placed.decode, placed.request);
  }
  // What a coordinator does: when one leg cannot go on, the other is released.
  void look_after(const Placed& placed) {
    if (!placed.split) return;
    const auto& p = world().leg(placed.prefill, placed.request.id, Leg::kPrefill);
    const auto& d = world().leg(placed.decode, placed.request.id, Leg::kDecode);
    const auto broken = [](const support::LegRecord& leg) {
      return leg.finish == FinishReason::kError || leg.refused != RefuseReason::kNone;
    };
    if (broken(p)) world().release(placed.decode, placed.request.id);
    if (broken(d)) world().release(placed.prefill, placed.request.id);
  }
  void check(const Placed& placed) {
    const auto& r = placed.request;
    const auto& last = world().leg(placed.decode, r.id, placed.split ? Leg::kDecode : Leg::kWhole);
    if (last.finish == FinishReason::kNone || last.finish == FinishReason::kError) return;
    const auto tokens =
        placed.split ? world().split_tokens(placed.prefill, placed.decode, r.id) : last.tokens;
    EXPECT_EQ(tokens, reference(r));
    ++complete_;
    if (r.sampling.prompt_logprobs < 0) return;
    const auto& first = world().leg(placed.prefill, r.id, placed.split ? Leg::kPrefill : Leg::kWhole);
    EXPECT_EQ(first.prompt_tokens, support::kvhash_prompt_reference(r, options_.kv.layers));
  }
  void check_seeds(Kind kind, int plans_in_flight);
  void count() {
    for (size_t i = 0; i < 3; ++i) {
      const EngineCounters counters = world().engine(i).counters();
      blocks_in_ += counters.host.blocks_in;
      fetches_failed_ += counters.host_fetches_failed;
      preemptions_ += counters.preemptions;
      rows_fed_ += world().executor(i).rows_fed();
      rows_ += world().executor(i).rows_run();
    }
  }
  int complete_ = 0;
  uint64_t blocks_in_ = 0, fetches_failed_ = 0, preemptions_ = 0, rows_fed_ = 0, rows_ = 0;
  bool pipeline_ = false;
};

void EngineRandomTest::check_seeds(Kind kind, int plans_in_flight) {
  const uint64_t first = support::seed_or(1);
  int requests = 0;
  for (uint64_t seed = first; seed < first + (support::given_seed().has_value() ? 1 : 60); ++seed) {
    SCOPED_TRACE(testing::Message() << "BATON_SEED=" << seed);
    Rng rng(seed);
    build(rng, kind, plans_in_flight);
    std::vector<Placed> placed;
    for (uint64_t id = 1; id <= 60; ++id) {
      placed.push_back(random_request(rng, id));
      submit(placed.back());
      ++requests;
      world().run_for(std::chrono::microseconds(rng.below(12'000)));
      for (const Placed& p : placed) look_after(p);
      if (rng.below(6) == 0) {
        const Placed& left = placed[rng.below(placed.size())];
        world().release(left.decode, left.request.id);
        if (left.split) world().release(left.prefill, left.request.id);
      }
    }
    for (int i = 0; i < 100; ++i) {
      world().run_for(100ms);
      for (const Placed& p : placed) look_after(p);
    }
    world().run_for(60s);
    world().expect_clean();
    for (const Placed& p : placed) check(p);
    count();
    if (HasFailure()) return;
  }
  EXPECT_GT(complete_, requests / 2) << "most must go through, or the test says little";
  if (support::given_seed().has_value()) return;
  EXPECT_GT(blocks_in_, 1000u) << "host memory must be of use, or the test says little";
  EXPECT_GT(fetches_failed_, 10u);
  EXPECT_GT(preemptions_, 100u);
  if (kind == Kind::kFedBack) {
    EXPECT_GT(rows_fed_, 10'000u) << "of " << rows_ << " rows";
  }
}

TEST_F(EngineRandomTest, EveryLegEndsAndEveryTokenIsRight) { check_seeds(Kind::kPlain, 1); }
TEST_F(EngineRandomTest, WithTwoPlansInFlight) { check_seeds(Kind::kPipeline, 2); }
TEST_F(EngineRandomTest, WithFourPlansInFlight) { check_seeds(Kind::kPipeline, 4); }
TEST_F(EngineRandomTest, WithTokensFedBack) { check_seeds(Kind::kFedBack, 2); }

TEST_F(EngineRandomTest, ReplaysByteForByte) {
  const auto run = [&](uint64_t seed) {
    Rng rng(seed);
    build(rng);
    for (uint64_t id = 1; id <= 30; ++id) {
      submit(random_request(rng, id));
      world().run_for(std::chrono::microseconds(rng.below(9'000)));
    }
    world().run_for(30s);
    return std::tuple(world().events(), world().fabric().pieces_moved(), world().engine(0).counters(),
                      world().engine(1).counters(), world().engine(2).counters());
  };
  EXPECT_EQ(run(42), run(42));
  EXPECT_NE(run(42), run(43));
}

}  // namespace
}  // namespace baton::worker
