#include "text/reasoning.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::text {
namespace {

struct Marks {
  std::string_view open, end;
};

constexpr Marks marks_of(ReasoningSyntax syntax) {
  return syntax == ReasoningSyntax::kBracket ? Marks{"[THINK]", "[/THINK]"} : Marks{"<think>", "</think>"};
}

constexpr std::string_view kSpaces = " \n\r\t";
bool is_space(char c) { return kSpaces.find(c) != kSpaces.npos; }

}  // namespace

ReasoningSyntax reasoning_syntax(std::string_view source) {
  for (const ReasoningSyntax syntax : {ReasoningSyntax::kBracket, ReasoningSyntax::kThink})
    if (source.contains(marks_of(syntax).open) || source.contains(marks_of(syntax).end)) return syntax;
  return ReasoningSyntax::kNone;
}

std::vector<TokenId> reasoning_marks(const Tokenizer& tokenizer, ReasoningSyntax syntax) {
  std::vector<TokenId> out;
  if (syntax == ReasoningSyntax::kNone) return out;
  for (const std::string_view mark : {marks_of(syntax).open, marks_of(syntax).end}) {
    const auto ids = tokenizer.encode(mark, {.add_special = false, .parse_special = true});
    if (ids.ok() && ids->size() == 1 && tokenizer.is_special(ids->front())) out.push_back(ids->front());
  }
  return out;
}

namespace {

bool ends_in_mark(const Tokenizer& tokenizer, std::string_view mark, std::span<const TokenId> prompt) {
  // A mark that is no token of its own is a token a byte at most; a line end or two stand behind it.
  const size_t tail = std::min(prompt.size(), mark.size() + 4);
  std::string text = tokenizer.decode(prompt.last(tail), /*skip_special=*/false);
  while (!text.empty() && is_space(text.back())) text.pop_back();
  return text.ends_with(mark);
}

}  // namespace

bool opens_reasoning(const Tokenizer& tokenizer, ReasoningSyntax syntax, std::span<const TokenId> prompt) {
  return syntax != ReasoningSyntax::kNone && ends_in_mark(tokenizer, marks_of(syntax).open, prompt);
}

bool ends_reasoning(const Tokenizer& tokenizer, ReasoningSyntax syntax, std::span<const TokenId> prompt) {
  return syntax != ReasoningSyntax::kNone && ends_in_mark(tokenizer, marks_of(syntax).end, prompt);
}

ReasoningSpelling reasoning_spelling(ReasoningSyntax syntax) {
  BATON_CHECK(syntax != ReasoningSyntax::kNone);
  return {marks_of(syntax).open, marks_of(syntax).end};
}

ReasoningReader::ReasoningReader(ReasoningSyntax syntax, bool open)
    : open_mark_(marks_of(syntax).open),
      end_mark_(marks_of(syntax).end),
      at_(open ? At::kThoughts : At::kStart) {
  BATON_CHECK(syntax != ReasoningSyntax::kNone);
}

ReasonedText ReasoningReader::push(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (at_ == At::kContent) {
      out_.content += text.substr(i);
      break;
    }
    feed(text[i]);
  }
  return std::exchange(out_, {});
}

ReasonedText ReasoningReader::finish() {
  if (at_ == At::kStart) {
    out_.content += space_ + held_;
  } else if (at_ == At::kThoughts && !held_.empty()) {
    think(held_);
  }
  at_ = At::kContent;
  return std::exchange(out_, {});
}

void ReasoningReader::feed(char c) {
  if (at_ == At::kStart) return on_start(c);
  if (at_ == At::kThoughts) return on_thoughts(c);
  if (is_space(c)) return;
  at_ = At::kContent;
  out_.content += c;
}

void ReasoningReader::on_start(char c) {
  if (held_.empty() && is_space(c)) {
    space_ += c;
    return;
  }
  held_ += c;
  if (!open_mark_.starts_with(held_)) {
    at_ = At::kContent;
    out_.content += space_ + held_;
  } else if (held_ == open_mark_) {
    at_ = At::kThoughts;
  } else {
    return;
  }
  held_.clear();
  space_.clear();
}

void ReasoningReader::think(const std::string& text) {
  if (std::exchange(said_, true)) out_.reasoning += space_;
  space_.clear();
  out_.reasoning += text;
}

// Text that could begin the second mark is held back, and white space that could stand before it.
void ReasoningReader::on_thoughts(char c) {
  held_ += c;
  if (held_ == end_mark_) {
    held_.clear();
    space_.clear();
    at_ = At::kBehind;
    return;
  }
  while (!held_.empty() && !end_mark_.starts_with(held_)) {
    const char first = held_.front();
    held_.erase(0, 1);
    if (is_space(first)) {
      space_ += first;
    } else {
      think(std::string(1, first));
    }
  }
}

}  // namespace baton::text
