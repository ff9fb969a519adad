// Ranks that share the vocabulary draw what Sampler::sample() draws from the whole row, token for token and
// error for error. Ranks are threads here.
#include "worker/model/sharded_draw.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <thread>

#include "base/check.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "transport/collectives/thread_ranks.h"
#include "worker/model/device_draw.h"
#include "worker/model/sampler.h"
#include "worker/parallel/plan_codec.h"

namespace baton::worker {
namespace {

using kernels::DrawnToken;

constexpr float kInf = std::numeric_limits<float>::infinity();

// One token to draw, and its request.
struct Request {
  std::vector<float> logits;
  std::vector<TokenId> tokens;
  int32_t prompt = 1;
  SamplingParams sampling;
  StopParams stop;
  SamplerInput input() const { return {logits, tokens, prompt, &sampling, &stop}; }
};

class Requests {
 public:
  Requests(uint64_t seed, int64_t vocab) : rng_(seed), vocab_(static_cast<size_t>(vocab)) {}
  Request next() {
    Request r;
    r.logits = logits();
    for (uint64_t n = 1 + rng_.below(40); n > 0; --n) r.tokens.push_back(token());
    r.prompt = static_cast<int32_t>(1 + rng_.below(r.tokens.size()));
    SamplingParams& s = r.sampling;
    s.seed = rng_.next();
    s.temperature = pick({0.0f, 1e-5f, 0.05f, 0.7f, 1.0f, 5.0f, real(5)});
    if (one_in(2)) s.top_p = pick({0.0f, 1e-6f, 0.5f, 0.9f, 0.95f, 1.0f - 1e-7f, -1.0f, real(1)});
    if (one_in(4)) s.min_p = pick({0.0f, 1e-4f, 0.05f, 0.5f, 1.0f, 7.0f, real(1)});
    if (one_in(5)) s.top_k = static_cast<int32_t>(rng_.below(one_in(2) ? 50 : 2 * vocab_)) - 1;
    if (one_in(4)) s.repetition_penalty = pick({0.5f, 1.1f, 2.0f, 1e-30f, 1e30f});
    if (one_in(4)) s.presence_penalty = pick({-2.0f, 0.5f, 2.0f, 1e9f});
    if (one_in(4)) s.frequency_penalty = pick({-2.0f, 0.5f, 2.0f, -1e9f});
    if (one_in(4)) bias(s);
    if (one_in(4)) masks(r.stop);
    return r;
  }
  uint64_t below(uint64_t n) { return rng_.below(n); }

 private:
  bool one_in(uint64_t n) { return rng_.below(n) == 0; }
  float real(double most) { return static_cast<float>(rng_.next_double() * most); }
  TokenId token() { return static_cast<TokenId>(rng_.below(vocab_)); }
  float pick(const std::vector<float>& values) { return values[rng_.below(values.size())]; }

  std::vector<float> logits() {
    std::vector<float> out(vocab_);
    const uint64_t kind = rng_.below(6);
    for (float& x : out) {
      const double spread = rng_.next_double() + rng_.next_double() - 1;
      x = static_cast<float>(kind == 0 ? 30 * spread : 8 * spread);
      if (kind == 1) x = std::round(x);  // many ties
      if (kind == 2) x = -0.0f;          // nothing but ties
      if (kind == 3) x *= 1e37f;
    }
    if (kind >= 4)
      for (int i = 0; i < 5; ++i) out[rng_.below(vocab_)] = static_cast<float>(10 + rng_.below(8));
    if (one_in(20)) out[rng_.below(vocab_)] = pick({kInf, -kInf, std::nanf("")});
    return out;
  }
  void bias(SamplingParams& s) {
    for (uint64_t n = 1 + rng_.below(5); n > 0; --n) {
      const TokenId id = token();
      const bool known = std::ranges::any_of(s.logit_bias, [id](const auto& b) { return b.first == id; });
      if (!known) s.logit_bias.emplace_back(id, pick({-100.0f, 100.0f, 1.5f, 3e38f, -3e38f, kInf, -kInf}));
    }
  }
  void masks(StopParams& stop) {
    stop.min_tokens = static_cast<int32_t>(rng_.below(60));
    for (uint64_t n = rng_.below(4); n > 0; --n) stop.end_token_ids.push_back(token());
    const bool all = one_in(8);  // nothing is left
    for (TokenId id = 0; all && id < static_cast<TokenId>(vocab_); ++id) stop.stop_token_ids.push_back(id);
    stop.stop_token_ids.push_back(-3);
  }

  Rng rng_;
  const size_t vocab_;
};

// What each rank says of a step's rows: its draws, or its candidates of rows that are not drawn together.
struct Answer {
  std::vector<DrawnToken> drawn;
  std::vector<std::vector<Candidate>> candidates;
};

class Ranks {
 public:
  Ranks(int size, int64_t vocab) : vocab_(vocab) {
    world_ = thread_ranks(size).value();
    for (int r = 0; r < size; ++r) {
      links_.push_back(std::make_unique<RankLinks>(
          RankLinks::Parts{*world_[r], *world_[r], clock_, std::chrono::seconds(60)},
          ParallelShape{size, 1}));
      backends_.push_back(kernels::make_backend({.device = "reference"}).value());
      draws_.push_back(std::make_unique<ShardedDraw>(*backends_[r], *links_[r], vocab));
    }
  }
  std::vector<Answer> draw(const std::vector<Request>& requests, const BatchRows& rows) {
    std::vector<Answer> answers(world_.size());
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < world_.size(); ++r)
      threads.emplace_back([&, r] { answers[r] = draw(static_cast<int>(r), requests, rows); });
    return answers;
  }

 private:
  Answer draw(int rank, const std::vector<Request>& requests, const BatchRows& rows) {
    const Range columns = vocab_part(vocab_, static_cast<int>(world_.size()), rank);
    std::vector<float> own;
    for (const Request& r : requests)
      own.insert(own.end(), r.logits.begin() + columns.begin, r.logits.begin() + columns.end);
    const auto count = static_cast<int64_t>(requests.size());
    const auto width = static_cast<size_t>(columns.size());
    const int64_t blocks = kernels::logit_blocks(columns.size());
    std::vector<float> maxima(static_cast<size_t>(count * blocks));
    const kernels::LogitRows all{own.data(), maxima.data()};
    if (width > 0) all.look_over(count, columns.size());
    BATON_CHECK(draws_[rank]->draw(rows, all).ok());
    Answer answer;
    CandidateSelector selector;
    for (int64_t i = 0; i < count; ++i) {
      answer.drawn.push_back(draws_[rank]->drawn(static_cast<size_t>(i)));
      const auto keep = std::min<size_t>(std::max(rows.keep[i], 0), width);
      auto& candidates = answer.candidates.emplace_back(keep);
      const kernels::LogitRows row = all.from(i, columns.size());
      if (keep > 0)
        selector.select({row.values, width}, {row.maxima, static_cast<size_t>(blocks)},
                        static_cast<TokenId>(columns.begin), candidates);
    }
    return answer;
  }

  const int64_t vocab_;
  SteadyClock clock_;
  std::vector<std::unique_ptr<Communicator>> world_;
  std::vector<std::unique_ptr<RankLinks>> links_;
  std::vector<std::unique_ptr<kernels::Backend>> backends_;
  std::vector<std::unique_ptr<ShardedDraw>> draws_;
};

struct Seen {
  int drawn = 0, not_finite = 0, nothing_left = 0, from_candidates = 0;
};

absl::Status status_of(int32_t state) {
  if (state == DrawnToken::kDrawn) return absl::OkStatus();
  return absl::InvalidArgumentError(state == DrawnToken::kNotFinite
                                        ? "the model's logits are not finite"
                                        : "mask, bias and penalties leave no finite largest logit");
}

// What comes of the answers to row i.
absl::Status put_together(const std::vector<Answer>& answers, size_t i, TokenOutput& out, Seen& seen) {
  int32_t state = answers[0].drawn[i].state;
  int found = 0;
  for (const Answer& answer : answers) {
    if (answer.drawn[i].state == DrawnToken::kDrawn) ++found, out.token = answer.drawn[i].token;
    if (state > DrawnToken::kDrawn) {
      EXPECT_EQ(answer.drawn[i].state, state) << "all ranks see an error";
    }
  }
  if (state <= DrawnToken::kDrawn) {
    EXPECT_EQ(found, 1) << "exactly one rank has the token";
    state = DrawnToken::kDrawn;
  }
  seen.drawn += state == DrawnToken::kDrawn;
  seen.not_finite += state == DrawnToken::kNotFinite;
  seen.nothing_left += state == DrawnToken::kNothingLeft;
  return status_of(state);
}

void check_step(Ranks& ranks, Requests& source, int64_t vocab, Seen& seen) {
  std::vector<Request> requests;
  BatchRows rows;
  Sampler sampler(vocab);
  DeviceDraw draw(vocab);
  for (uint64_t n = 1 + source.below(6); n > 0; --n) {
    const Request& r = requests.emplace_back(source.next());
    const SamplerInput input = r.input();
    rows.logit_rows.push_back(static_cast<int32_t>(rows.logit_rows.size()));
    rows.keep.push_back(sampler.draws_from_all(input) ? BatchRows::kDrawn : sampler.needs(input));
    rows.draws.push_back(draw.describe(input, 0, rows.changes));
    ASSERT_EQ(rows.draws.back().wanted, 1);
  }
  const std::vector<Answer> answers = ranks.draw(requests, rows);
  for (size_t i = 0; i < requests.size(); ++i) {
    if (rows.keep[i] == BatchRows::kAllLogits) continue;
    TokenOutput want, got;
    const SamplerInput input = requests[i].input();
    const absl::Status wanted = sampler.sample(input, want);
    absl::Status status;
    if (rows.keep[i] == BatchRows::kDrawn) {
      status = put_together(answers, i, got, seen);
    } else {
      std::vector<Candidate> all;
      for (const Answer& a : answers) all.insert(all.end(), a.candidates[i].begin(), a.candidates[i].end());
      status = sampler.sample_from(all, input, got);
      ++seen.from_candidates;
    }
    ASSERT_EQ(status, wanted) << "row " << i;
    if (!wanted.ok()) continue;
    ASSERT_EQ(got.token, want.token) << "row " << i;
  }
}

class ShardedDrawTest : public ::testing::TestWithParam<int> {};

TEST_P(ShardedDrawTest, IsSampleOfTheWholeRow) {
  const uint64_t seed = support::seed_or(1103);
  Seen seen;
  for (const int64_t vocab : {1, 2, 15, 16, 17, 47, 100, 255, 256, 257, 500, 1000, 4099}) {
    Ranks ranks(GetParam(), vocab);
    Requests source(seed + static_cast<uint64_t>(vocab), vocab);
    for (int step = 0; step < 40; ++step) {
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocab << ", step " << step);
      check_step(ranks, source, vocab, seen);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
  EXPECT_GT(seen.drawn, 600);
  EXPECT_GT(seen.from_candidates, 300);
  EXPECT_GT(seen.not_finite, 10);
  EXPECT_GT(seen.nothing_left, 10);
}

TEST_P(ShardedDrawTest, IsSampleOfARealVocabulary) {
  const uint64_t seed = support::seed_or(2207);
  constexpr int64_t kVocab = 49152;
  Ranks ranks(GetParam(), kVocab);
  Requests source(seed, kVocab);
  Seen seen;
  for (int step = 0; step < 40; ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    check_step(ranks, source, kVocab, seen);
    if (::testing::Test::HasFatalFailure()) return;
  }
  EXPECT_GT(seen.drawn, 50);
}

// Tokens alone would hardly show a sum that has other bits. Here every u is one at which the sum, up to some
// token, is the target, or next to it.
class Edges {
 public:
  Edges(const Request& request, const kernels::DrawRow& how) : how_(how) {
    const std::span<const float> logits = request.logits;
    const float max = *std::ranges::max_element(logits);
    std::vector<float> values;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] < TokenWeights::floor(max, how.temperature)) continue;
      ids_.push_back(static_cast<TokenId>(i));
      values.push_back(logits[i]);
    }
    weights_.weigh(ids_, values, max, how.temperature);
    weights_.drop_below(how.min_p);
    TokenWeights::Masses masses;
    weights_.add_to(masses);
    const TokenWeights::Crossing crossing = TokenWeights::crossing(masses, how.top_p);
    std::vector<TokenWeights::Member> members;
    weights_.members(crossing.bin, members);
    if (how.top_p < 1) weights_.keep(TokenWeights::cut(members, crossing.wanted));
    weights_.add_to(total_);
  }
  // Some u whose target is at the edge of a token drawn at random, and the token that it draws.
  std::pair<double, TokenId> next(uint64_t random, double step) const {
    const TokenId at = weights_.walk(0, total_ * (static_cast<double>(random % 1000) / 1000));
    // By halves: the least u that draws a token behind `at`.
    double low = 0, high = 1;
    for (double u = 0.5; u > low && u < high; u = low + (high - low) / 2)
      (weights_.walk(0, u * total_) > at ? high : low) = u;
    double u = step < 0 ? low : high;
    if (step != 0) u = std::nextafter(u, u + step);
    u = std::clamp(u, 0.0, 0x1.fffffffffffffp-1);
    return {u, weights_.walk(0, u * total_)};
  }

 private:
  const kernels::DrawRow how_;
  std::vector<TokenId> ids_;
  TokenWeights weights_;
  double total_ = 0;
};

TEST_P(ShardedDrawTest, SumsHaveTheBitsOfTheWholeRow) {
  Rng rng(support::seed_or(3301));
  constexpr int64_t kVocab = 3000;
  Ranks ranks(GetParam(), kVocab);
  BatchRows rows;
  rows.logit_rows.resize(8);
  rows.keep.assign(8, BatchRows::kDrawn);
  rows.draws.resize(8);
  for (int step = 0; step < 150; ++step) {
    std::vector<Request> requests(8);
    std::vector<TokenId> want;
    for (size_t i = 0; i < requests.size(); ++i) {
      for (int64_t k = 0; k < kVocab; ++k)
        requests[i].logits.push_back(static_cast<float>(10 * (rng.next_double() + rng.next_double())));
      rows.draws[i] = {.temperature = static_cast<float>(0.3 + rng.next_double()), .wanted = 1};
      if (i % 2 == 1) rows.draws[i].top_p = static_cast<float>(rng.next_double());
      if (i % 4 == 0) rows.draws[i].min_p = 0.001f;
      const auto [u, token] =
          Edges(requests[i], rows.draws[i]).next(rng.next(), static_cast<double>(rng.below(3)) - 1);
      rows.draws[i].uniform = u;
      want.push_back(token);
    }
    const std::vector<Answer> answers = ranks.draw(requests, rows);
    Seen seen;
    for (size_t i = 0; i < requests.size(); ++i) {
      TokenOutput got;
      ASSERT_TRUE(put_together(answers, i, got, seen).ok());
      ASSERT_EQ(got.token, want[i]) << "step " << step << " row " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShardedDrawTest, ::testing::Values(2, 3, 4, 8),
                         [](const auto& test) { return "Tensor" + std::to_string(test.param); });

// The last token there is, where rounding leaves the target at the total: u is the largest below 1.
TEST(ShardedDraw, TheLastTokenIsSomewhere) {
  for (const int64_t vocab : {40, 48, 64}) {
    Ranks ranks(3, vocab);
    Request r;
    r.logits.assign(static_cast<size_t>(vocab), 1.0f);
    BatchRows rows;
    rows.logit_rows = {0};
    rows.keep = {BatchRows::kDrawn};
    for (const double uniform : {0.0, 0x1.fffffffffffffp-1}) {
      // With min_p 1 or top_p 0 the places before or behind the best have nothing.
      for (int64_t best = 0; best < vocab; ++best) {
        r.logits[best] = 2.0f;
        rows.draws = {{.uniform = uniform, .temperature = 1, .min_p = 1, .wanted = 1}};
        std::vector<TokenId> found;
        for (const Answer& a : ranks.draw({r}, rows))
          if (a.drawn[0].state == DrawnToken::kDrawn) found.push_back(a.drawn[0].token);
        EXPECT_THAT(found, ::testing::ElementsAre(best));
        r.logits[best] = 1.0f;
      }
    }
  }
}

// The last of two places, which says what it is told to, step by step, for a row with top-p.
struct LastPlace {
  TokenWeights::Crossing crossing{.wanted = 0.5, .bin = 0};
  uint32_t count = 1;
  TokenWeights::Member member{.weight = 1, .id = 20};

  void run(RankLinks& links) const {
    struct Peak {
      float max = 1;
      int32_t finite = 1;
    };
    const std::array<Peak, 1> mine{};
    std::array<Peak, 2> peaks{};
    links.gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(peaks)));
    TokenWeights::Masses masses;
    links.from_previous_place(std::as_writable_bytes(std::span(&masses, 1)));
    auto said = crossing;
    links.from_last_place(std::as_writable_bytes(std::span(&said, 1)));
    if (said.bin >= TokenWeights::kBins) return;
    std::array<uint32_t, 2> counts{};
    links.gather(std::as_bytes(std::span(&count, 1)), std::as_writable_bytes(std::span(counts)));
    if (count > 16) return;
    std::array<TokenWeights::Member, 2> members;
    links.gather(std::as_bytes(std::span(&member, 1)), std::as_writable_bytes(std::span(members)));
  }
};

absl::Status draw_beside(const LastPlace& last) {
  SteadyClock clock;
  auto world = thread_ranks(2).value();
  const ParallelShape shape{2, 1};
  RankLinks zero({*world[0], *world[0], clock, std::chrono::seconds(60)}, shape);
  RankLinks one({*world[1], *world[1], clock, std::chrono::seconds(60)}, shape);
  const auto backend = kernels::make_backend({.device = "reference"}).value();
  ShardedDraw draw(*backend, zero, 32);
  std::vector<float> logits(16, 0.0f), maxima(1);
  logits[3] = 1.0f;
  const kernels::LogitRows own{logits.data(), maxima.data()};
  own.look_over(1, 16);
  BatchRows rows;
  rows.logit_rows = {0};
  rows.keep = {BatchRows::kDrawn};
  rows.draws = {{.uniform = 0.5, .temperature = 1, .top_p = 0.9f, .wanted = 1}};
  absl::Status status;
  {
    const std::jthread other([&] { last.run(one); });
    status = draw.draw(rows, own);
    world[0]->interrupt(1);  // whoever still waits
  }
  return status;
}

// Nothing that another rank says makes this one read or sort what is not there.
TEST(ShardedDraw, RefusesWhatCannotBe) {
  const auto words = [](const LastPlace& last) { return std::string(draw_beside(last).message()); };
  for (const int32_t bin : {512, std::numeric_limits<int32_t>::max()})
    EXPECT_EQ(words({.crossing = {.bin = bin}}), "sharded draw: a bin of place 1 cannot be");
  EXPECT_EQ(words({.count = 17}), "sharded draw: a bin's size of place 1 cannot be");
  for (const double weight : {std::nan(""), -1.0, 0.0, 1.5})
    EXPECT_EQ(words({.member = {.weight = weight}}), "sharded draw: a weight of place 1 cannot be");
}

}  // namespace
}  // namespace baton::worker
