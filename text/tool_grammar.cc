#include "text/tool_grammar.h"

#include <boost/json.hpp>

#include "base/cat.h"
#include "base/check.h"

namespace baton::text {
namespace {

std::string json_text(std::string_view text) { return boost::json::serialize(boost::json::string(text)); }

// A string of Lark: one of JSON, but that it may not hold DEL.
std::string literal(std::string_view text) {
  std::string out;
  for (const char c : json_text(text)) c == '\x7f' ? out += "\\u007f" : out += c;
  return out;
}

std::string mark(const ModelText& model, std::string_view spelling) {
  return lark_mark(*model.tokenizer, model.tool_marks, spelling);
}

}  // namespace

std::string lark_mark(const Tokenizer& tokenizer, std::span<const TokenId> control,
                      std::string_view spelling) {
  for (const TokenId id : control)
    if (tokenizer.token_piece(id) == spelling) return cat("<[", id, "]>");
  return literal(spelling);
}

Grammar tool_grammar(const ModelText& model, std::span<const ToolSignature> tools, CallCount count,
                     std::string_view otherwise) {
  BATON_CHECK(!tools.empty() && (otherwise.empty() || model.tool_syntax != ToolSyntax::kObject));
  const bool more = count == CallCount::kOneOrMore;
  std::string calls, call = "(", rules;
  for (size_t i = 0; i < tools.size(); ++i) {
    const char* key = model.tool_syntax == ToolSyntax::kObject ? "parameters" : "arguments";
    call += cat(i > 0 ? " | " : "", "tool_", i);
    rules += cat("tool_", i, ": ", literal(cat("{\"name\": ", json_text(tools[i].name), ", \"", key, "\": ")),
                 " %json ", tools[i].parameters, " \"}\"\n");
  }
  call += ")";
  switch (model.tool_syntax) {
    case ToolSyntax::kTags:
      call = cat(mark(model, kTagMark), " \"\\n\" ", call, " \"\\n\" ", mark(model, kEndTagMark));
      calls = more ? "call (\"\\n\" call)*" : "call";
      break;
    case ToolSyntax::kObject:
      calls = "call";
      break;
    case ToolSyntax::kList:
      calls = cat(mark(model, kListMark), " \"[\" call ", more ? "(\", \" call)* " : "", "\"]\"");
      break;
    default:
      BATON_CHECK(false);
  }
  const std::string json = otherwise.empty() ? "" : cat(" | %json ", otherwise);
  return {GrammarKind::kLark, cat("start: ", calls, json, "\ncall: ", call, "\n", rules)};
}

}  // namespace baton::text
