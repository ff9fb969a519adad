#include "text/grammar_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/text/shared_models.h"

namespace baton::text {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// SmolLM2's vocabulary with logits wider than it, as models with padded vocabularies have.
class GrammarTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!std::filesystem::exists(shared_models())) return;
    model_ = load_model_text(shared_models() + "/smollm2").value();
    vocabulary_ = GrammarVocabulary::create(*model_.tokenizer, kWidth, model_.end_token_ids).value();
  }
  static void TearDownTestSuite() {
    vocabulary_.reset();
    model_ = {};
  }
  void SetUp() override { SKIP_WITHOUT_SHARED_MODELS(); }

  std::unique_ptr<GrammarMatcher> compile(GrammarKind kind, std::string_view source) {
    auto matcher = vocabulary_->compile({kind, std::string(source)});
    EXPECT_TRUE(matcher.ok()) << matcher.status();
    return *std::move(matcher);
  }
  std::vector<uint32_t> mask(GrammarMatcher& matcher) {
    std::vector<uint32_t> words(vocabulary_->mask_words());
    const auto status = matcher.fill_mask(words);
    EXPECT_TRUE(status.ok()) << status;
    return words;
  }
  static bool allows(const std::vector<uint32_t>& words, TokenId id) {
    return (words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0;
  }
  std::vector<TokenId> ids(std::string_view text) {
    return model_.tokenizer->encode(text, {.add_special = false, .parse_special = false}).value();
  }
  // Every token of `text` is inside the mask and accepted.
  void feed(GrammarMatcher& matcher, std::string_view text) {
    for (const TokenId id : ids(text)) {
      ASSERT_TRUE(allows(mask(matcher), id)) << model_.tokenizer->token_piece(id);
      ASSERT_TRUE(*matcher.accept(id));
    }
  }

  static constexpr int32_t kWidth = 49152 + 100;
  static constexpr TokenId kEnd = 2;
  static inline ModelText model_;
  static inline std::unique_ptr<GrammarVocabulary> vocabulary_;
};

constexpr std::string_view kSchema = R"({"type": "object", "properties": {"name": {"type": "string"},
  "age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": false})";

TEST_F(GrammarTest, JsonSchema) {
  auto matcher = compile(GrammarKind::kJsonSchema, kSchema);
  EXPECT_FALSE(allows(mask(*matcher), ids("Hello")[0]));
  EXPECT_FALSE(allows(mask(*matcher), kEnd));
  feed(*matcher, R"({"name": "Zoë", "age": 4)");
  EXPECT_FALSE(*matcher->accepting());
  EXPECT_FALSE(*matcher->accept(ids("Hello")[0])) << "refused, and the state is as before";
  feed(*matcher, "2}");
  EXPECT_TRUE(*matcher->accepting());
  const auto words = mask(*matcher);
  for (TokenId id = 0; id < kWidth; ++id) {
    if (!allows(words, id) || id == kEnd) continue;
    EXPECT_EQ(model_.tokenizer->token_bytes(id).find_first_not_of(" \n\t\r"), std::string::npos) << id;
  }
  EXPECT_TRUE(*matcher->accept(kEnd));
  EXPECT_TRUE(*matcher->stopped());
  EXPECT_FALSE(*matcher->accept(ids("a")[0]));
  ASSERT_TRUE(matcher->rollback(2).ok()) << "the end token and the brace";
  EXPECT_FALSE(*matcher->accepting());
  feed(*matcher, "}");
  EXPECT_TRUE(*matcher->accepting());
}

TEST_F(GrammarTest, RegexMaskIsExactlyWhatMayCome) {
  auto matcher = compile(GrammarKind::kRegex, "(yes|no)");
  const auto words = mask(*matcher);
  int allowed = 0;
  for (TokenId id = 0; id < kWidth; ++id) {
    const std::string bytes = model_.tokenizer->token_bytes(id);
    const bool may = !bytes.empty() && (std::string_view("yes").starts_with(bytes) ||
                                        std::string_view("no").starts_with(bytes));
    EXPECT_EQ(allows(words, id), may) << id << " " << bytes;
    allowed += may;
  }
  EXPECT_GE(allowed, 4) << "y, yes, n, no at least";
  feed(*matcher, "no");
  EXPECT_TRUE(*matcher->stopped() || *matcher->accepting());
  EXPECT_TRUE(allows(mask(*matcher), kEnd));
}

TEST_F(GrammarTest, Lark) {
  auto matcher = compile(GrammarKind::kLark, "start: \"a\" b* \"c\"\nb: \"b\"");
  feed(*matcher, "abbbc");
  EXPECT_TRUE(allows(mask(*matcher), kEnd));
}

TEST_F(GrammarTest, RollbackAndCopy) {
  auto matcher = compile(GrammarKind::kJsonSchema, kSchema);
  feed(*matcher, R"({"name": ")");
  const auto before = mask(*matcher);
  const auto more = ids("abc\", \"age\": 1");
  for (const TokenId id : more) ASSERT_TRUE(*matcher->accept(id));
  auto other = matcher->copy();
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE(matcher->rollback(static_cast<int>(more.size())).ok());
  EXPECT_EQ(mask(*matcher), before);
  for (const TokenId id : more) ASSERT_TRUE(*matcher->accept(id)) << "the same way again";
  EXPECT_EQ(mask(*matcher), mask(**other));
  feed(**other, "}");
  EXPECT_TRUE(*(*other)->accepting());
  EXPECT_FALSE(*matcher->accepting()) << "a copy is independent";
  EXPECT_FALSE(matcher->rollback(1000).ok());
}

// Any walk inside the masks ends in a text of the language.
TEST_F(GrammarTest, RandomWalksInsideTheMaskGiveValidJson) {
  const uint64_t seed = support::seed_or(3);
  SCOPED_TRACE(::testing::Message() << "BATON_SEED=" << seed);
  Rng rng(seed);
  constexpr std::string_view kSmall =
      R"({"type": "object", "properties": {"a": {"type": "array", "items": {"enum":
    [1, true, null, "x"]}, "maxItems": 3}, "b": {"type": "boolean"}}, "required": ["a", "b"], "additionalProperties": false})";
  for (int walk = 0; walk < 10; ++walk) {
    auto matcher = compile(GrammarKind::kJsonSchema, kSmall);
    std::vector<TokenId> taken;
    while (taken.size() < 400 && !*matcher->stopped()) {
      const auto words = mask(*matcher);
      if (allows(words, kEnd)) break;
      std::vector<TokenId> choices;
      for (TokenId id = 0; id < model_.tokenizer->vocab_size(); ++id) {
        if (!allows(words, id)) continue;
        const std::string bytes = model_.tokenizer->token_bytes(id);
        if (bytes.find_first_not_of(" \n\t\r") != std::string::npos) choices.push_back(id);  // walk forward
      }
      ASSERT_FALSE(choices.empty());
      taken.push_back(choices[rng.below(choices.size())]);
      ASSERT_TRUE(*matcher->accept(taken.back()));
    }
    const std::string text = model_.tokenizer->decode(taken, true);
    boost::system::error_code error;
    const auto value = boost::json::parse(text, error);
    ASSERT_FALSE(error) << text;
    EXPECT_TRUE(value.at("b").is_bool()) << text;
    EXPECT_LE(value.at("a").as_array().size(), 3u) << text;
  }
}

// An expression with 2^30 states: the answer that meets too many of them ends, soon.
TEST_F(GrammarTest, AStepThatCostsTooMuchIsAnError) {
  auto matcher = compile(GrammarKind::kRegex, "(.*e.{30})*");
  std::vector<uint32_t> words(vocabulary_->mask_words());
  const std::vector<TokenId> text =
      ids("the tree we see here, even these, the three greens, were never seen before");
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    status = matcher->fill_mask(words);
    if (!status.ok()) break;
    const auto taken = matcher->accept(text[static_cast<size_t>(i) % text.size()]);
    status = taken.status();
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("grammar: lexer error: too many"));
  EXPECT_THAT(status.ToString(), Not(HasSubstr("verbose")));
}

TEST_F(GrammarTest, RefusesBadGrammarsAndBounds) {
  const auto error = [&](GrammarKind kind, std::string_view source, const GrammarLimits& limits = {}) {
    const auto matcher = vocabulary_->compile({kind, std::string(source)}, limits);
    return matcher.ok() ? std::string("accepted") : matcher.status().ToString();
  };
  EXPECT_THAT(error(GrammarKind::kJsonSchema, "{"), HasSubstr("grammar: json_schema: EOF"));
  EXPECT_THAT(error(GrammarKind::kJsonSchema, R"({"type": "nonsense"})"), HasSubstr("grammar: json_schema"));
  EXPECT_THAT(error(GrammarKind::kRegex, "(a"), HasSubstr("grammar: regex"));
  EXPECT_THAT(error(GrammarKind::kLark, "start: undefined_rule"), HasSubstr("grammar: lark"));
  EXPECT_THAT(error(GrammarKind::kRegex, "a\xff"), HasSubstr("no UTF-8"));
  EXPECT_THAT(error(GrammarKind::kRegex, std::string(100, 'a'), {.source_bytes = 99}),
              HasSubstr("100 bytes; at most 99"));
  EXPECT_THAT(error(GrammarKind::kJsonSchema, kSchema, {.grammar_symbols = 5}),
              HasSubstr("grammar: json_schema"));
  EXPECT_THAT(error(GrammarKind::kRegex, "[a-z]{1,5000}", {.compile_fuel = 1}), HasSubstr("grammar: regex"));
  auto matcher = compile(GrammarKind::kRegex, "a");
  std::vector<uint32_t> small(3);
  EXPECT_THAT(matcher->fill_mask(small).ToString(), HasSubstr("a mask of 3 words"));
  EXPECT_FALSE(*matcher->accept(-1));
  EXPECT_FALSE(GrammarVocabulary::create(*model_.tokenizer, 100, model_.end_token_ids).ok());
  EXPECT_FALSE(GrammarVocabulary::create(*model_.tokenizer, kWidth, {}).ok());
}

TEST_F(GrammarTest, CacheLoadsOnceAndGivesMatchersAtTheStart) {
  int loads = 0;
  GrammarCache cache([&]() -> absl::StatusOr<std::unique_ptr<GrammarVocabulary>> {
    if (++loads == 1) return absl::UnavailableError("no file yet");
    return GrammarVocabulary::create(*model_.tokenizer, kWidth, model_.end_token_ids);
  });
  const Grammar yes = {GrammarKind::kRegex, "yes"};
  EXPECT_THAT(cache.matcher(yes).status().ToString(), HasSubstr("no file yet"));
  for (int time = 0; time < 3; ++time) {
    auto matcher = cache.matcher(yes);
    ASSERT_TRUE(matcher.ok()) << matcher.status();
    feed(**matcher, "yes");
    EXPECT_TRUE(allows(mask(**matcher), kEnd));
  }
  EXPECT_EQ(loads, 2);
  EXPECT_FALSE(cache.matcher({GrammarKind::kRegex, "(a"}).ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(cache.matcher({GrammarKind::kRegex, std::to_string(i)}).ok());
  feed(**cache.matcher({GrammarKind::kLark, "start: \"yes\""}), "yes");
  feed(**cache.matcher(yes), "yes");
}

}  // namespace
}  // namespace baton::text
