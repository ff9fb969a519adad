// Whatever a grammar of calls allows, the reader of calls reads: random walks inside the masks of a model
// whose tokens are bytes.
#include "text/tool_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/cat.h"
#include "base/rng.h"
#include "tests/support/seed.h"
#include "tests/text/byte_model.h"
#include "text/grammar_matcher.h"

namespace baton::text {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr TokenId kEnd = 256;
constexpr const char* kTags = "{{ tools }}<tool_call>";
constexpr const char* kObject = "{{ tools }}<|python_tag|>";
constexpr const char* kList = "{{ tools }}[TOOL_CALLS]";
const std::vector<std::string> kControl = {"<end>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]",
                                           "<|python_tag|>"};

// Its parameters refer to themselves, which must go on working beside other tools.
const std::vector<ToolSignature> kTools = {
    {"look", R"({"type":"object","properties":{"at":{"$ref":"#/$defs/place"}},"required":["at"],
      "additionalProperties":false,"$defs":{"place":{"enum":["here","a \"}]</tool_call>"]}},
      "x-guidance":{"whitespace_flexible":false}})"},
    {"say \"it\"\n\x7f", R"({"type":"object","properties":{"n":{"type":"integer","minimum":0,"maximum":99},
      "all":{"type":"array","items":{"type":"boolean"},"maxItems":2}},"required":["n"],
      "additionalProperties":false,"x-guidance":{"whitespace_flexible":false}})"}};

struct Answer {
  std::string text;
  std::vector<ToolCallPiece> calls;  // each in one piece
  std::string content;
  int whole = 0;
};

class ToolGrammar : public ::testing::Test {
 protected:
  explicit ToolGrammar() : seed_(support::seed_or(11)), rng_(seed_) {}

  static Answer read(ToolSyntax syntax, std::string text) {
    ToolCallReader reader(syntax);
    Answer out{.text = std::move(text), .calls = {}, .content = {}};
    for (ToolText said : {reader.push(out.text), reader.finish()}) {
      out.content += said.content;
      for (ToolCallPiece& piece : said.calls) {
        if (!piece.name.empty())
          out.calls.push_back(std::move(piece));
        else
          out.calls.back().arguments += piece.arguments;
      }
    }
    out.whole = reader.whole();
    return out;
  }

  // A random answer, drawn as a worker draws: inside the mask, control tokens spelled where they are marks.
  Answer walk(const ModelText& model, const Grammar& grammar) {
    const auto vocabulary =
        GrammarVocabulary::create(*model.tokenizer, model.tokenizer->vocab_size(), model.end_token_ids)
            .value();
    const auto matcher = vocabulary->compile(grammar);
    EXPECT_TRUE(matcher.ok()) << matcher.status() << "\n" << grammar.source;
    std::string text;
    for (int tokens = 0; matcher.ok() && tokens < 2000; ++tokens) {
      std::vector<uint32_t> words(vocabulary->mask_words());
      EXPECT_TRUE((*matcher)->fill_mask(words).ok());
      std::vector<TokenId> may;
      for (TokenId id = 0; id < model.tokenizer->vocab_size(); ++id)
        if (words[static_cast<size_t>(id) / 32] >> (id % 32) & 1) may.push_back(id);
      EXPECT_FALSE(may.empty()) << text;
      if (may.empty()) break;
      const TokenId id = may[rng_.below(may.size())];
      if (id == kEnd) return read(model.tool_syntax, text);
      EXPECT_TRUE(*(*matcher)->accept(id));
      text += id < kEnd ? model.tokenizer->token_bytes(id) : model.tokenizer->token_piece(id);
    }
    ADD_FAILURE() << "no end: " << text;
    return {};
  }

  static void expect_calls(const Answer& answer) {
    SCOPED_TRACE(answer.text);
    EXPECT_EQ(answer.content, "");
    EXPECT_EQ(answer.whole, static_cast<int>(answer.calls.size()));
    for (const ToolCallPiece& call : answer.calls) {
      EXPECT_THAT(call.name, AnyOf(kTools[0].name, kTools[1].name));
      boost::system::error_code error;
      const auto arguments = boost::json::parse(call.arguments, error);
      ASSERT_FALSE(error) << call.arguments;
      EXPECT_TRUE(arguments.at(call.name == kTools[0].name ? "at" : "n").is_primitive());
    }
  }

  // Walks for one model: how many calls the answers had.
  std::set<size_t> walks(const ModelText& model, CallCount count) {
    std::set<size_t> calls;
    const Grammar grammar = tool_grammar(model, kTools, count);
    for (int i = 0; i < 30; ++i) {
      const Answer answer = walk(model, grammar);
      expect_calls(answer);
      calls.insert(answer.calls.size());
    }
    return calls;
  }

  const uint64_t seed_;
  Rng rng_;
};

TEST_F(ToolGrammar, OneCallIsRead) {
  SCOPED_TRACE(cat("BATON_SEED=", seed_));
  for (const char* source : {kTags, kObject, kList})
    for (const auto& control : {std::vector<std::string>{"<end>"}, kControl}) {
      SCOPED_TRACE(cat(source, " ", control.size(), " control tokens"));
      EXPECT_EQ(walks(byte_model(source, control), CallCount::kOne), std::set<size_t>{1});
    }
}

TEST_F(ToolGrammar, SeveralCallsAreReadWhereTheFamilyHasThem) {
  SCOPED_TRACE(cat("BATON_SEED=", seed_));
  for (const char* source : {kTags, kList}) {
    const auto calls = walks(byte_model(source, kControl), CallCount::kOneOrMore);
    EXPECT_TRUE(calls.contains(1) && calls.contains(2)) << source;
  }
  EXPECT_EQ(walks(byte_model(kObject, kControl), CallCount::kOneOrMore), std::set<size_t>{1});
}

TEST_F(ToolGrammar, MarksThatAreControlTokensAreThoseTokens) {
  const auto source = [](const char* chat_template, const std::vector<std::string>& control) {
    return tool_grammar(byte_model(chat_template, control), kTools, CallCount::kOne).source;
  };
  EXPECT_THAT(source(kTags, kControl),
              HasSubstr("call: <[257]> \"\\n\" (tool_0 | tool_1) \"\\n\" <[258]>\n"));
  EXPECT_THAT(source(kTags, {"<end>"}), HasSubstr("call: \"<tool_call>\" \"\\n\""));
  EXPECT_THAT(source(kList, kControl), HasSubstr("start: <[259]> \"[\" call"));
}

TEST_F(ToolGrammar, JsonInPlaceOfCalls) {
  SCOPED_TRACE(cat("BATON_SEED=", seed_));
  for (const char* source : {kTags, kList})
    for (const auto& control : {std::vector<std::string>{"<end>"}, kControl}) {
      SCOPED_TRACE(cat(source, " ", control.size(), " control tokens"));
      const ModelText model = byte_model(source, control);
      const Grammar grammar =
          tool_grammar(model, kTools, CallCount::kOne,
                       R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":1,
                                               "x-guidance":{"whitespace_flexible":false}})");
      std::set<std::string> texts;
      int calls = 0;
      for (int i = 0; i < 100; ++i) {
        const Answer answer = walk(model, grammar);
        if (answer.calls.empty()) {
          texts.insert(answer.content);
        } else {
          expect_calls(answer);
          ++calls;
        }
      }
      EXPECT_GT(calls, 0);
      EXPECT_EQ(texts, (std::set<std::string>{"[true]", "[false]"}));
    }
}

// As many as a request may have.
TEST_F(ToolGrammar, ManyTools) {
  SCOPED_TRACE(cat("BATON_SEED=", seed_));
  std::vector<ToolSignature> tools;
  for (int i = 0; i < 256; ++i) tools.push_back({cat("tool-number-", i), kTools[1].parameters});
  const ModelText model = byte_model(kTags, kControl);
  const Answer answer = walk(model, tool_grammar(model, tools, CallCount::kOne));
  ASSERT_EQ(answer.calls.size(), 1u);
  EXPECT_THAT(answer.calls[0].name, HasSubstr("tool-number-"));
}

}  // namespace
}  // namespace baton::text
