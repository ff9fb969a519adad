#include "worker/grammar/grammar_masks.h"

#include <gmock/gmock.h>

#include <mutex>
#include <thread>

#include "tests/text/shared_models.h"

namespace baton::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using text::shared_models;

constexpr TokenId kEnd = 2;

class GrammarMasksTest : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_SHARED_MODELS(); }

  absl::StatusOr<std::unique_ptr<text::GrammarVocabulary>> load() {
    ++loads;
    model = text::load_model_text(shared_models() + "/smollm2").value();
    return text::GrammarVocabulary::create(*model.tokenizer, 49152 + 64, model.end_token_ids);
  }
  static bool allows(const TokenMask::Allowed& allowed, TokenId id) {
    return (allowed.words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0;
  }
  static GenerateRequest with(Grammar grammar, uint64_t id = 1) {
    return {.id = RequestId(id), .grammar = std::move(grammar)};
  }
  std::vector<TokenId> ids(std::string_view text) {
    return model.tokenizer->encode(text, {.add_special = false, .parse_special = false}).value();
  }

  int loads = 0;
  text::ModelText model;
  GrammarMasks masks{[this] { return load(); }};
};

TEST_F(GrammarMasksTest, FollowsTheAnswer) {
  auto mask = masks.begin(with({GrammarKind::kRegex, "(yes|no) indeed"}));
  ASSERT_TRUE(mask.ok()) << mask.status();
  const std::vector<TokenId> answer = ids("yes indeed");
  for (size_t known = 0; known < answer.size(); ++known) {
    const auto allowed = (*mask)->after(std::span(answer).first(known));
    ASSERT_TRUE(allowed.ok()) << allowed.status();
    EXPECT_TRUE(allows(*allowed, answer[known]));
    EXPECT_FALSE(allows(*allowed, kEnd));
    EXPECT_FALSE(allowed->only_ends);
  }
  // One that comes late, after a hand-over say, is told all of it at once.
  auto late = masks.begin(with({GrammarKind::kRegex, "(yes|no) indeed"}));
  for (auto* one : {&*mask, &*late}) {
    const auto allowed = (*one)->after(answer);
    ASSERT_TRUE(allowed.ok()) << allowed.status();
    EXPECT_TRUE(allowed->only_ends);
    for (TokenId id = 0; id < 49152 + 64; ++id) EXPECT_EQ(allows(*allowed, id), id == kEnd) << id;
  }
  EXPECT_EQ(loads, 1);
}

// Who draws all tokens and who comes late end at the same one, where a step costs too much.
TEST_F(GrammarMasksTest, TheSameErrorsForWhoComesLate) {
  const GenerateRequest request = with({GrammarKind::kRegex, "(.*e.{30})*"});
  auto mask = masks.begin(request);
  ASSERT_TRUE(mask.ok());
  const std::vector<TokenId> text =
      ids("the tree we see here, even these, the three greens, were never seen before");
  std::vector<TokenId> answer;
  absl::Status status;
  while (answer.size() < 2000 && (status = (*mask)->after(answer).status()).ok()) {
    if (answer.size() % 7 == 0) {
      auto late = masks.begin(request);
      EXPECT_TRUE((*late)->after(answer).ok()) << answer.size();
    }
    answer.push_back(text[answer.size() % text.size()]);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  auto late = masks.begin(request);
  EXPECT_EQ((*late)->after(answer).status(), status);
}

TEST_F(GrammarMasksTest, SaysWhatIsWrong) {
  EXPECT_THAT(masks.begin(with({GrammarKind::kJsonSchema, "{"})).status().ToString(),
              HasSubstr("json_schema"));
  auto mask = masks.begin(with({GrammarKind::kRegex, "[0-9]+"}));
  ASSERT_TRUE(mask.ok());
  const std::vector<TokenId> answer = ids("12 apples");
  EXPECT_THAT((*mask)->after(answer).status().ToString(), HasSubstr("none that its grammar allows"));
}

TEST_F(GrammarMasksTest, TheThreadCompilesAndTells) {
  std::mutex mutex;
  std::vector<uint64_t> done;
  GrammarThread thread(masks, [&](RequestId id) {
    const std::lock_guard lock(mutex);
    done.push_back(id.value());
  });
  std::jthread body([&] { thread.run(); });
  EXPECT_TRUE(thread.compile(RequestId(4), {GrammarKind::kRegex, "a"}));
  EXPECT_TRUE(thread.compile(RequestId(5), {GrammarKind::kRegex, "("}));
  EXPECT_TRUE(thread.compile(RequestId(6), {GrammarKind::kRegex, "b"}));
  const Instant limit = SteadyClock().now() + std::chrono::seconds(30);
  const auto count = [&] {
    const std::lock_guard lock(mutex);
    return done.size();
  };
  while (count() < 3 && SteadyClock().now() < limit)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  thread.close();
  body.join();
  EXPECT_THAT(done, ElementsAre(4, 5, 6));
  // What was made is there, whatever begin() is told of the grammar, until it is taken or forgotten.
  EXPECT_TRUE(masks.begin(with({GrammarKind::kRegex, "("}, 4)).ok());
  EXPECT_FALSE(masks.begin(with({GrammarKind::kRegex, "("}, 4)).ok());
  EXPECT_FALSE(masks.begin(with({GrammarKind::kRegex, "a"}, 5)).ok());
  masks.forget(RequestId(6));
  EXPECT_FALSE(masks.begin(with({GrammarKind::kRegex, "("}, 6)).ok());
  EXPECT_FALSE(thread.compile(RequestId(7), {GrammarKind::kRegex, "c"}));
}

}  // namespace
}  // namespace baton::worker
