// Thoughts in the text of an answer: by family, cut at every byte.
#include "text/reasoning.h"

#include <gtest/gtest.h>

#include "base/cat.h"
#include "tests/text/byte_model.h"

namespace baton::text {
namespace {

ReasonedText read(std::string_view text, size_t piece, ReasoningSyntax syntax, bool open) {
  ReasoningReader reader(syntax, open);
  ReasonedText all;
  const auto add = [&](const ReasonedText& said) {
    all.reasoning += said.reasoning;
    all.content += said.content;
  };
  for (size_t at = 0; at < text.size(); at += piece) add(reader.push(text.substr(at, piece)));
  add(reader.finish());
  return all;
}

struct Case {
  std::string text, reasoning, content;
  bool open = false;
};

TEST(ReasoningReader, TellsThoughtsAndContentHoweverTheTextIsCut) {
  const std::vector<Case> cases = {
      {"<think>\nHm, 2+2.\n</think>\n\nIt is 4.", "Hm, 2+2.", "It is 4."},
      {"\n <think>a</think>b", "a", "b"},
      {"Hm.\n\nSo.\n</think>\n4", "Hm.\n\nSo.", "4", true},
      {"<think>\n\n</think>\n\nYes.\n", "", "Yes.\n"},
      {"No thoughts. <think>late</think>", "", "No thoughts. <think>late</think>"},
      {"  spaces stay", "", "  spaces stay"},
      {"<thin ice", "", "<thin ice"},
      {"<", "", "<"},
      {" <thi", "", " <thi"},
      {"", "", ""},
      {" \n", "", " \n"},
      {"", "", "", true},
      {"<think>cut off </thi", "cut off </thi", ""},
      {"<think>cut off \n", "cut off", ""},
      {"<think>a < b << c</ d </think >e <</think>f</think>g", "a < b << c</ d </think >e <", "f</think>g"},
      {"<think>x</think>", "x", ""},
      {"<think>x</think>   ", "x", ""},
      {"<think>one<think>two</think>three", "one<think>two", "three"},
  };
  for (const Case& c : cases)
    for (const size_t piece : {1, 2, 3, 5, 8, 1000}) {
      const ReasonedText said = read(c.text, piece, ReasoningSyntax::kThink, c.open);
      EXPECT_EQ(said.reasoning, c.reasoning) << c.text << " by " << piece;
      EXPECT_EQ(said.content, c.content) << c.text << " by " << piece;
    }
  const ReasonedText brackets = read("[THINK]a [b][/THINK]c", 1, ReasoningSyntax::kBracket, false);
  EXPECT_EQ(brackets.reasoning, "a [b]");
  EXPECT_EQ(brackets.content, "c");
}

// A stream must not hold back what is certain.
TEST(ReasoningReader, SaysWhatIsCertainAtOnce) {
  ReasoningReader reader(ReasoningSyntax::kThink, false);
  EXPECT_EQ(reader.push("<think>").reasoning, "");
  EXPECT_TRUE(reader.thinking());
  EXPECT_EQ(reader.push("Well").reasoning, "Well");
  EXPECT_EQ(reader.push(", a<").reasoning, ", a");
  EXPECT_EQ(reader.push("b").reasoning, "<b");
  EXPECT_EQ(reader.push("</think>").content, "");
  EXPECT_FALSE(reader.thinking());
  EXPECT_EQ(reader.push("4").content, "4");
}

TEST(ReasoningSyntax, IsThatOfTheTemplate) {
  EXPECT_EQ(reasoning_syntax("{{ messages }}"), ReasoningSyntax::kNone);
  EXPECT_EQ(reasoning_syntax("{{ content.split('</think>')[-1] }}"), ReasoningSyntax::kThink);
  EXPECT_EQ(reasoning_syntax("<|im_start|>assistant\n<think>\n"), ReasoningSyntax::kThink);
  EXPECT_EQ(reasoning_syntax("[THINK]your thoughts[/THINK]"), ReasoningSyntax::kBracket);
}

TEST(ReasoningSyntax, OfRealTemplates) {
  SKIP_WITHOUT_SHARED_MODELS();
  for (const auto& [name, syntax] : {std::pair{"qwen3", ReasoningSyntax::kThink},
                                     {"minimind2-small", ReasoningSyntax::kThink},
                                     {"qwen2.5", ReasoningSyntax::kNone},
                                     {"mistral-nemo", ReasoningSyntax::kNone},
                                     {"tinyllama", ReasoningSyntax::kNone}}) {
    const std::string source = read_text(cat(shared_models(), "/chat/", name, ".jinja"));
    ASSERT_FALSE(source.empty()) << name;
    EXPECT_EQ(reasoning_syntax(source), syntax) << name;
  }
}

// Qwen3's template closes the thoughts itself when none are wanted.
TEST(ReasoningSyntax, QwensPromptIsOpenOnlyWhereItSaysSo) {
  SKIP_WITHOUT_SHARED_MODELS();
  const ModelText model =
      byte_model(read_text(shared_models() + "/chat/qwen3.jinja"), {"<|im_end|>", "<|im_start|>"});
  for (const char* more : {"", R"(,"enable_thinking":false)", R"(,"enable_thinking":true)"}) {
    const auto prompt = model.encode_chat(
        cat(R"({"messages":[{"role":"user","content":"<think>"}],"add_generation_prompt":true)", more, "}"));
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_FALSE(opens_reasoning(*model.tokenizer, model.reasoning_syntax, *prompt)) << more;
  }
  EXPECT_EQ(model.reasoning_syntax, ReasoningSyntax::kThink);
}

// Marks may be control tokens, or words like others; a prompt may end in the first one.
TEST(ReasoningSyntax, MarksAreFoundInVocabularyAndPrompt) {
  const ModelText with = byte_model("x", {"<end>", "<think>", "</think>"}), without = byte_model("x");
  EXPECT_EQ(reasoning_marks(*with.tokenizer, ReasoningSyntax::kThink), (std::vector<TokenId>{257, 258}));
  EXPECT_TRUE(reasoning_marks(*with.tokenizer, ReasoningSyntax::kBracket).empty());
  EXPECT_TRUE(reasoning_marks(*with.tokenizer, ReasoningSyntax::kNone).empty());
  EXPECT_TRUE(reasoning_marks(*without.tokenizer, ReasoningSyntax::kThink).empty());
  for (const ModelText* model : {&with, &without})
    for (const auto& [prompt, open] : {std::pair{"user: hi<end>assistant: <think>\n", true},
                                       {"<think>", true},
                                       {"a <think>\n\n", true},
                                       {"<think>\n\n</think>\n\n", false},
                                       {"user: <think> what?", false},
                                       {"", false},
                                       {"\n", false}}) {
      const auto ids = model->tokenizer->encode(prompt, {.add_special = false, .parse_special = true});
      ASSERT_TRUE(ids.ok());
      EXPECT_EQ(opens_reasoning(*model->tokenizer, ReasoningSyntax::kThink, *ids), open) << prompt;
      EXPECT_FALSE(opens_reasoning(*model->tokenizer, ReasoningSyntax::kNone, *ids));
    }
}

}  // namespace
}  // namespace baton::text
