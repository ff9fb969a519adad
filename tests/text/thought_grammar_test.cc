// What a grammar behind thoughts allows, the reader of thoughts reads: thoughts of any text, and content that
// the grammar of the answer allows.
#include "text/thought_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/text/byte_model.h"
#include "text/grammar_matcher.h"
#include "text/tool_grammar.h"

namespace baton::text {
namespace {

constexpr TokenId kEnd = 256;
const std::vector<std::string> kControl = {"<end>", "<think>", "</think>", "[THINK]", "[/THINK]", "<other>"};

ModelText model_of(ReasoningSyntax syntax, bool control) {
  ModelText model =
      byte_model("{{ tools }}<tool_call>", control ? kControl : std::vector<std::string>{"<end>"});
  model.reasoning_syntax = syntax;
  model.reasoning_marks = reasoning_marks(*model.tokenizer, syntax);
  return model;
}

class ThoughtGrammar : public ::testing::Test {
 protected:
  // Whether `text` and an end is a sentence; marks are control tokens where the model has them.
  static bool allows(const ModelText& model, const Grammar& grammar, std::string_view text) {
    const auto vocabulary =
        GrammarVocabulary::create(*model.tokenizer, model.tokenizer->vocab_size(), model.end_token_ids)
            .value();
    const auto matcher = vocabulary->compile(grammar);
    EXPECT_TRUE(matcher.ok()) << matcher.status() << "\n" << grammar.source;
    if (!matcher.ok()) return false;
    auto ids = model.tokenizer->encode(text, {.add_special = false, .parse_special = true}).value();
    ids.push_back(kEnd);
    for (const TokenId id : ids) {
      std::vector<uint32_t> words(vocabulary->mask_words());
      EXPECT_TRUE((*matcher)->fill_mask(words).ok());
      const bool in_mask = words[static_cast<size_t>(id) / 32] >> (id % 32) & 1;
      EXPECT_EQ(*(*matcher)->accept(id), in_mask);
      if (!in_mask) return false;
    }
    return true;
  }
};

TEST_F(ThoughtGrammar, ThoughtsAreAnythingAndTheAnswerIsHeld) {
  const std::vector<std::pair<Grammar, std::pair<const char*, const char*>>> answers = {
      {{GrammarKind::kJsonSchema, R"({"enum":["yes","no"]})"}, {"\"yes\"", "yes"}},
      {{GrammarKind::kRegex, R"(a/b\/c\d+[/]|x
y)"},
       {"a/b/c7/", "a/b/c"}},
      {{GrammarKind::kRegex, "x\ny|z"}, {"x\ny", "x y"}},
  };
  for (const auto syntax : {ReasoningSyntax::kThink, ReasoningSyntax::kBracket})
    for (const bool control : {false, true})
      for (const bool open : {false, true})
        for (const auto& [answer, texts] : answers) {
          const ModelText model = model_of(syntax, control);
          const auto grammar = behind_thoughts(model, open, answer, false);
          ASSERT_TRUE(grammar);
          SCOPED_TRACE(grammar->source);
          const auto [begin, end] = reasoning_spelling(syntax);
          const std::string first(open ? "" : begin), last(end);
          const auto [good, bad] = texts;
          EXPECT_EQ(allows(model, *grammar, good), !open);
          EXPECT_FALSE(allows(model, *grammar, bad));
          EXPECT_FALSE(allows(model, *grammar, first + "Hm."));
          for (const char* thoughts : {"", "\nHm <b> \"x\" {} [/T </thin \xC3\xA9\n", "yes"}) {
            EXPECT_TRUE(allows(model, *grammar, first + thoughts + last + good));
            EXPECT_TRUE(allows(model, *grammar, first + thoughts + last + "\n\n" + good));
            EXPECT_FALSE(allows(model, *grammar, first + thoughts + last + bad));
            EXPECT_FALSE(allows(model, *grammar, first + thoughts + last + "\n\n\n\n\n" + good));
          }
          if (control) {
            EXPECT_FALSE(allows(model, *grammar, first + "<other>" + last + good))
                << "no other control token";
          }
          ReasoningReader reader(syntax, open);
          ReasonedText read = reader.push(first + "Hm." + last + "\n\n" + good);
          EXPECT_EQ(read.reasoning, "Hm.");
          EXPECT_EQ(read.content + reader.finish().content, good);
        }
}

TEST_F(ThoughtGrammar, CallsStandBehindThoughtsAndLarkOfClientsDoesNot) {
  const ModelText model = model_of(ReasoningSyntax::kThink, false);
  const std::vector<ToolSignature> tools = {{"f", R"({"type":"object","additionalProperties":false})"}};
  const Grammar calls = tool_grammar(model, tools, CallCount::kOne);
  const auto grammar = behind_thoughts(model, false, calls, true);
  ASSERT_TRUE(grammar);
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  EXPECT_TRUE(allows(model, *grammar, call));
  EXPECT_TRUE(allows(model, *grammar, "<think>f?</think>\n\n" + call));
  EXPECT_FALSE(allows(model, *grammar, "<think>f?</think>\n\nNo."));
  EXPECT_FALSE(behind_thoughts(model, false, {GrammarKind::kLark, "start: \"a\""}, false));
}

}  // namespace
}  // namespace baton::text
