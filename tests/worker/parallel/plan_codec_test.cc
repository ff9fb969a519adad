#include "worker/parallel/plan_codec.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <tuple>

#include "base/rng.h"

namespace baton::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr PlanLimits kLimits{
    .max_rows = 40, .max_positions = 320, .block_tokens = 16, .blocks = 1000, .vocab = 99};

// A step as the engine would plan it, and what a follower must make of it.
struct Step {
  BatchRows rows;
  std::vector<SequenceId> ids;
};

struct Living {
  std::vector<BlockId> table;
  int32_t position = 0;
};

// What is wanted of the last logit row, and how it is drawn or changed.
void add_draw(BatchRows& rows, Rng& rng) {
  rows.keep.back() =
      static_cast<int32_t>(rng.below(static_cast<uint64_t>(most_candidates(kLimits.vocab)) + 2)) - 1;
  const bool drawn = rows.keep.back() == BatchRows::kDrawn;
  if (!drawn && (rows.keep.back() == BatchRows::kAllLogits || rng.below(2) == 0)) return;
  rows.draws.resize(rows.logit_rows.size());
  kernels::DrawRow& draw = rows.draws.back();
  draw = {.uniform = rng.next_double(), .temperature = 0.5f, .top_p = 0.9f, .min_p = 0.1f, .wanted = 1};
  draw.repetition = 1.1f, draw.frequency = -0.5f, draw.presence = 2;
  draw.first_change = static_cast<int32_t>(rows.changes.size());
  draw.changes = static_cast<int32_t>(rng.below(static_cast<uint64_t>(most_changes(kLimits.vocab)) + 1));
  for (int32_t i = 0; i < draw.changes; ++i)
    rows.changes.push_back({.id = static_cast<int32_t>(rng.below(kLimits.vocab)),
                            .bias = static_cast<float>(rng.next_double()),
                            .count = static_cast<int32_t>(rng.below(300)),
                            .flags = static_cast<int32_t>(rng.below(8))});
}

void add(Step& step, SequenceId id, const Living& s, int32_t count, int32_t logits, Rng& rng) {
  const auto first = static_cast<int32_t>(step.rows.tokens.size());
  for (int32_t i = 0; i < count; ++i) {
    step.rows.tokens.push_back(static_cast<TokenId>(rng.below(kLimits.vocab)));
    step.rows.positions.push_back(s.position + i);
  }
  if (rng.below(4) == 0)
    step.rows.sends.push_back({static_cast<uint32_t>(step.rows.sequences.size()), TransferId(rng.next())});
  step.rows.sequences.push_back({first, count, s.position, s.table});
  for (int32_t i = count - logits; i < count; ++i) step.rows.logit_rows.push_back(first + i);
  step.rows.keep.resize(step.rows.logit_rows.size(), BatchRows::kAllLogits);
  if (logits == 1) add_draw(step.rows, rng);
  step.ids.push_back(id);
}

void expect_equal_draws(const BatchRows& got, const BatchRows& want) {
  const auto fields = [](const kernels::DrawRow& d) {
    return std::tuple(d.uniform, d.temperature, d.top_p, d.min_p, d.repetition, d.frequency, d.presence,
                      d.first_change, d.changes, d.wanted);
  };
  ASSERT_EQ(got.draws.size(), want.draws.size());
  for (size_t i = 0; i < want.draws.size(); ++i) EXPECT_EQ(fields(got.draws[i]), fields(want.draws[i]));
  ASSERT_EQ(got.changes.size(), want.changes.size());
  for (size_t i = 0; i < want.changes.size(); ++i) {
    const kernels::LogitChange &g = got.changes[i], &w = want.changes[i];
    EXPECT_EQ(std::tuple(g.id, g.bias, g.count, g.flags), std::tuple(w.id, w.bias, w.count, w.flags));
  }
}

void expect_equal(const BatchRows& got, const BatchRows& want) {
  expect_equal_draws(got, want);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.positions, want.positions);
  EXPECT_EQ(got.logit_rows, want.logit_rows);
  EXPECT_EQ(got.keep, want.keep);
  EXPECT_EQ(got.sends, want.sends);
  ASSERT_EQ(got.sequences.size(), want.sequences.size());
  for (size_t i = 0; i < want.sequences.size(); ++i) {
    EXPECT_EQ(got.sequences[i].first_row, want.sequences[i].first_row);
    EXPECT_EQ(got.sequences[i].row_count, want.sequences[i].row_count);
    EXPECT_EQ(got.sequences[i].first_position, want.sequences[i].first_position);
    EXPECT_THAT(got.sequences[i].blocks, ::testing::ElementsAreArray(want.sequences[i].blocks));
  }
}

// Sequences come, grow, are preempted (a new table) and go, many more than there are slots.
TEST(PlanCodec, FollowersSeeWhatRankZeroPlans) {
  const uint64_t seed = 20261121;
  SCOPED_TRACE(seed);
  Rng rng(seed);
  PlanWriter writer(kLimits);
  PlanReader reader(kLimits);
  BatchRows got;
  std::map<uint64_t, Living> living;
  uint64_t next = 1;
  size_t delta_bytes = 0, table_bytes = 0;
  for (int turn = 0; turn < 3000; ++turn) {
    if (living.size() < 60 && rng.below(2) == 0) living[next++];
    if (!living.empty() && rng.below(20) == 0)
      living.erase(std::next(living.begin(), static_cast<ptrdiff_t>(rng.below(living.size()))));
    Step step;
    int32_t room = kLimits.max_rows;
    for (auto& [id, s] : living) {
      if (room == 0 || rng.below(2) == 0) continue;
      if (s.position >= 300 || rng.below(30) == 0) s = {};  // preempted: from the start, in other blocks
      const auto count = static_cast<int32_t>(1 + rng.below(std::min<uint64_t>(room, 17)));
      while (static_cast<int64_t>(s.table.size()) * 16 < s.position + count)
        s.table.push_back(BlockId(static_cast<uint32_t>(rng.below(1000))));
      add(step, SequenceId(id), s, count, static_cast<int32_t>(rng.below(count + 1)), rng);
      s.position += count;
      room -= count;
      table_bytes += s.table.size() * 4;
    }
    if (step.ids.empty()) continue;
    if (!step.rows.draws.empty()) step.rows.draws.resize(step.rows.logit_rows.size());
    const auto message = writer.step(StepId(turn), step.ids, step.rows, 3);
    const auto head = reader.head(message);
    ASSERT_TRUE(head.ok()) << head.status();
    EXPECT_EQ(head->step, static_cast<uint64_t>(turn));
    EXPECT_EQ(head->micro_batches, 3);
    delta_bytes += head->added * 4;
    ASSERT_TRUE(reader.step(message, got).ok());
    expect_equal(got, step.rows);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(next, 2 * kLimits.slots());  // slots changed hands
  EXPECT_LT(delta_bytes * 3, table_bytes);
}

std::vector<std::byte> one_step(PlanWriter& writer) {
  Rng rng(1);
  Step step;
  Living a{{BlockId(3), BlockId(4)}, 16}, b{{BlockId(7)}, 0};
  add(step, SequenceId(1), a, 2, 1, rng);
  add(step, SequenceId(2), b, 3, 0, rng);
  step.rows.sends = {{1, TransferId(uint64_t{1} << 33)}};
  step.rows.keep = {BatchRows::kDrawn};
  step.rows.changes = {{.id = 7, .bias = 1.5f, .count = 3, .flags = 5}, {.id = 98, .flags = 2}};
  step.rows.draws = {{.uniform = 0.5, .temperature = 0.7f, .top_p = 0.9f, .changes = 2, .wanted = 1}};
  const auto message = writer.step(StepId(5), step.ids, step.rows, 1);
  return {message.begin(), message.end()};
}

TEST(PlanCodec, SizesAreThoseOfTheHeader) {
  PlanWriter writer(kLimits);
  EXPECT_EQ(one_step(writer).size(), 48 + 2 * 28 + 40 + 5 * 4 + 3 * 4 + 12 + 2 * 12u);
  EXPECT_EQ(one_step(writer).size(), 48 + 2 * 28 + 40 + 5 * 4 + 12 + 2 * 12u);  // the tables are known now
}

// So that ShardedDraw need not look.
void expect_sane_draws(const BatchRows& rows) {
  ASSERT_TRUE(rows.draws.empty() || rows.draws.size() == rows.logit_rows.size());
  ASSERT_EQ(rows.keep.size(), rows.logit_rows.size());
  for (size_t r = 0; r < rows.keep.size(); ++r) {
    ASSERT_TRUE(rows.keep[r] >= BatchRows::kDrawn && rows.keep[r] <= most_candidates(kLimits.vocab));
    if (rows.keep[r] == BatchRows::kDrawn) {
      ASSERT_TRUE(!rows.draws.empty() && rows.draws[r].wanted != 0 && rows.draws[r].temperature > 0);
    }
    if (rows.draws.empty() || rows.draws[r].wanted == 0) continue;
    const kernels::DrawRow& draw = rows.draws[r];
    ASSERT_LE(static_cast<size_t>(draw.first_change + draw.changes), rows.changes.size());
    const auto changes = std::span(rows.changes).subspan(draw.first_change, draw.changes);
    ASSERT_TRUE(may_be_told(draw, changes, kLimits.vocab));
  }
}

// Whatever bytes arrive: refused, or a batch within the limits. Never read past the end.
TEST(PlanCodec, SurvivesAnyBytes) {
  const uint64_t seed = 7;
  SCOPED_TRACE(seed);
  Rng rng(seed);
  PlanWriter writer(kLimits);
  const std::vector<std::byte> good = one_step(writer);
  int refused = 0;
  for (int turn = 0; turn < 20000; ++turn) {
    PlanReader reader(kLimits);
    std::vector<std::byte> bytes = good;
    const int changes = static_cast<int>(1 + rng.below(3));
    for (int i = 0; i < changes; ++i) bytes[rng.below(bytes.size())] = static_cast<std::byte>(rng.below(256));
    if (rng.below(4) == 0) bytes.resize(rng.below(bytes.size()));
    BatchRows got;
    const auto head = reader.head(bytes);
    const bool ok = head.ok() && head->bytes == bytes.size() && reader.step(bytes, got).ok();
    refused += !ok;
    if (!ok) continue;
    ASSERT_EQ(got.tokens.size(), got.positions.size());
    for (const TokenId token : got.tokens) ASSERT_TRUE(token >= 0 && token < kLimits.vocab);
    ASSERT_NO_FATAL_FAILURE(expect_sane_draws(got));
    for (const auto& s : got.sequences) {
      ASSERT_LE(s.first_position + s.row_count, static_cast<int64_t>(s.blocks.size()) * 16);
      ASSERT_LE(s.first_position + s.row_count, kLimits.max_positions);
      for (const BlockId block : s.blocks) ASSERT_LT(block.value(), kLimits.blocks);
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(PlanCodec, NamesWhatIsWrong) {
  PlanWriter writer(kLimits);
  PlanReader reader(kLimits);
  std::vector<std::byte> bytes = one_step(writer);
  BatchRows got;
  const auto with = [&](size_t at, uint32_t value) {
    std::vector<std::byte> changed = bytes;
    std::memcpy(changed.data() + at, &value, sizeof value);
    return std::string(PlanReader(kLimits).step(changed, got).message());
  };
  EXPECT_THAT(with(0, 1), HasSubstr("not a plan"));
  EXPECT_THAT(with(48, 80), HasSubstr("slot 80"));
  EXPECT_THAT(with(52, 1), HasSubstr("table of slot"));
  EXPECT_THAT(with(144, 99), HasSubstr("token 99"));
  EXPECT_THAT(with(164, 1000), HasSubstr("block 1000"));
  EXPECT_THAT(with(176, 2), HasSubstr("transfer of sequence 2"));
  EXPECT_THAT(std::string(reader.head(std::span(bytes).first(47)).status().message()), HasSubstr("cut off"));
  EXPECT_TRUE(reader.step(bytes, got).ok());
}

// Head at 0, records at 48 and 76, the draw at 104, the changes at 188.
TEST(PlanCodec, RefusesDrawsThatAreAbsurd) {
  PlanWriter writer(kLimits);
  const std::vector<std::byte> bytes = one_step(writer);
  BatchRows got;
  const auto with = [&](size_t at, auto value) {
    std::vector<std::byte> changed = bytes;
    std::memcpy(changed.data() + at, &value, sizeof value);
    return std::string(PlanReader(kLimits).step(changed, got).message());
  };
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(with(0, PlanHead::kMagic), "");
  for (const double uniform : {1.0, -0.1, double{kInf}, std::nan("")})
    EXPECT_THAT(with(104, uniform), HasSubstr("draw of sequence 0"));
  for (const float temperature : {-1.0f, 1e9f, kInf, std::nanf("")})
    EXPECT_THAT(with(112, temperature), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(112, 0.0f), HasSubstr("a row that nobody draws"));
  for (const size_t at : {116, 120, 124, 128, 132})  // top_p, min_p, repetition, frequency, presence
    for (const float value : {kInf, -kInf, std::nanf("")})
      EXPECT_THAT(with(at, value), HasSubstr("draw of sequence 0")) << at;
  EXPECT_THAT(with(124, 0.0f), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(128, 1e10f), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(136, 1), HasSubstr("draw of sequence 1"));  // which has no logit row
  EXPECT_THAT(with(136, 2), HasSubstr("draw of sequence 2"));
  EXPECT_THAT(with(140, 3), HasSubstr("with 3 changes"));
  EXPECT_THAT(with(140, 1), HasSubstr("changes of no row"));
  EXPECT_THAT(with(188, 99), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(188, -1), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(192, std::nanf("")), HasSubstr("draw of sequence 0"));
  EXPECT_EQ(with(192, -kInf), "");
  EXPECT_THAT(with(196, 0x80000000u), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(72, -2), HasSubstr("keep -2"));
  EXPECT_THAT(with(72, 257), HasSubstr("keep 257"));
  EXPECT_THAT(with(72, 0), HasSubstr("draw of sequence 0"));
  EXPECT_THAT(with(100, -1), HasSubstr("keep -1"));  // no logit row
  EXPECT_THAT(with(32, 3), HasSubstr("5 rows, 2 sequences"));
  EXPECT_THAT(with(36, 13), HasSubstr("5 rows, 2 sequences"));
}

// The same judgement on rank 0, which then draws itself.
TEST(PlanCodec, ManyChangesAreNotTold) {
  const kernels::DrawRow row{.temperature = 1, .wanted = 1};
  std::vector<kernels::LogitChange> changes(12);
  EXPECT_TRUE(may_be_told(row, changes, 99));
  changes.resize(13);
  EXPECT_FALSE(may_be_told(row, changes, 99));
}

}  // namespace
}  // namespace baton::worker
