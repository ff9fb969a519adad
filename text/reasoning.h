#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace baton::text {

// How a family of models writes what it thinks before it answers.
//   kThink    DeepSeek R1, Qwen3, QwQ, SmolLM3:  <think>thoughts</think>answer
//   kBracket  Magistral:                         [THINK]thoughts[/THINK]answer
enum class ReasoningSyntax : uint8_t { kNone, kThink, kBracket };

// What the chat template knows of; the template's text is all there is to tell by.
ReasoningSyntax reasoning_syntax(std::string_view template_source);
// Control tokens of that syntax in this vocabulary: they are part of the text that a ReasoningReader reads.
std::vector<TokenId> reasoning_marks(const Tokenizer& tokenizer, ReasoningSyntax syntax);
// The prompt ends in the mark already (the templates of R1 and QwQ write it): the answer begins with
// thoughts.
bool opens_reasoning(const Tokenizer& tokenizer, ReasoningSyntax syntax, std::span<const TokenId> prompt);

// Or in the last mark: the template of a model that is not to think writes none.
bool ends_reasoning(const Tokenizer& tokenizer, ReasoningSyntax syntax, std::span<const TokenId> prompt);

// How the marks are written; `syntax`: not kNone.
struct ReasoningSpelling {
  std::string_view begin, end;
};
ReasoningSpelling reasoning_spelling(ReasoningSyntax syntax);

struct ReasonedText {
  std::string reasoning;
  std::string content;
};

// Splits the text of an answer into thoughts and content as it comes. Thoughts are at its beginning or
// nowhere; white space at both ends of them, and before the content behind them, is dropped. What it says,
// concatenated, does not depend on the pieces the text comes in. Thread: its owner. Errors: none.
//
//   push("<thi") -> nothing; push("nk>\nHm") -> reasoning "Hm"; push("\n</think>\n\n4") -> content "4"
class ReasoningReader {
 public:
  // `syntax`: not kNone. `open`: the first mark stands in the prompt.
  ReasoningReader(ReasoningSyntax syntax, bool open);
  ReasonedText push(std::string_view text);
  ReasonedText finish();
  // Behind the first mark and before the second.
  bool thinking() const { return at_ == At::kThoughts; }

 private:
  enum class At : uint8_t { kStart, kThoughts, kBehind, kContent };

  void feed(char c);
  void on_start(char c);
  void on_thoughts(char c);
  void think(const std::string& text);

  const std::string_view open_mark_, end_mark_;
  At at_;
  std::string held_;   // may become a mark
  std::string space_;  // at kStart before it, in thoughts behind them
  bool said_ = false;  // a thought
  ReasonedText out_;
};

}  // namespace baton::text
