#include "text/thought_grammar.h"

#include "base/cat.h"
#include "base/check.h"
#include "text/tool_grammar.h"

namespace baton::text {
namespace {

constexpr std::string_view kStart = "start: ";

// An expression between the slashes of a Lark terminal.
std::string terminal(std::string_view expression) {
  std::string out = "/";
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      out += c;
      out += expression[++i];
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c == '/' ? "\\/" : std::string(1, c);
    }
  }
  return out + "/";
}

// The rules of `answer`, of which the first is named so; "" when they cannot be.
std::string answer_rules(const Grammar& answer, bool is_own) {
  switch (answer.kind) {
    case GrammarKind::kJsonSchema:
      return cat("answer: %json ", answer.source, "\n");
    case GrammarKind::kRegex:
      return cat("answer: ", terminal(answer.source), "\n");
    case GrammarKind::kLark:
      if (!is_own || !answer.source.starts_with(kStart)) return "";
      return cat("answer: ", answer.source.substr(kStart.size()));
    default:
      return "";
  }
}

}  // namespace

std::optional<Grammar> behind_thoughts(const ModelText& model, bool open, const Grammar& answer,
                                       bool is_own) {
  const auto [begin, end] = reasoning_spelling(model.reasoning_syntax);
  const std::string rules = answer_rules(answer, is_own);
  if (rules.empty()) return std::nullopt;
  const std::string end_mark = lark_mark(*model.tokenizer, model.reasoning_marks, end);
  // The end as text is looked for in the thoughts themselves; a control token is no part of any text.
  const bool is_token = end_mark.starts_with('<');
  const std::string thought = is_token ? cat("thought ", end_mark) : "thought";
  return Grammar{
      GrammarKind::kLark,
      cat(kStart, open ? "thoughts gap answer" : "thoughts gap answer | answer", "\nthoughts: ",
          open ? "" : lark_mark(*model.tokenizer, model.reasoning_marks, begin) + " ", thought, "\nthought",
          is_token ? "" : cat("[suffix=", end_mark, "]"), ": /(?s:.*)/\ngap: /[ \\n]{0,4}/\n", rules)};
}

}  // namespace baton::text
