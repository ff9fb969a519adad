#include "worker/parallel/plan_codec.h"

#include <gmock/gmock.h>

#include <cstring>
#include <map>

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
  step.rows.keep.resize(step.rows.logit_rows.size(),
                        logits == 1 ? static_cast<int32_t>(rng.below(kMaxKeep + 1)) : 0);
  step.ids.push_back(id);
}

void expect_equal(const BatchRows& got, const BatchRows& want) {
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
  const auto message = writer.step(StepId(5), step.ids, step.rows, 1);
  return {message.begin(), message.end()};
}

TEST(PlanCodec, SizesAreThoseOfTheHeader) {
  PlanWriter writer(kLimits);
  EXPECT_EQ(one_step(writer).size(), 40 + 2 * 28 + 5 * 4 + 3 * 4 + 12u);
  EXPECT_EQ(one_step(writer).size(), 40 + 2 * 28 + 5 * 4 + 12u);  // the tables are known now
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
  EXPECT_THAT(with(40, 80), HasSubstr("slot 80"));
  EXPECT_THAT(with(44, 1), HasSubstr("table of slot"));
  EXPECT_THAT(with(96, 99), HasSubstr("token 99"));
  EXPECT_THAT(with(116, 1000), HasSubstr("block 1000"));
  EXPECT_THAT(with(128, 2), HasSubstr("transfer of sequence 2"));
  EXPECT_THAT(std::string(reader.head(std::span(bytes).first(39)).status().message()), HasSubstr("cut off"));
  EXPECT_TRUE(reader.step(bytes, got).ok());
}

}  // namespace
}  // namespace baton::worker
