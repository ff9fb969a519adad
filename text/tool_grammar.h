#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/grammar.h"
#include "text/model_text.h"

namespace baton::text {

// A mark in Lark as this vocabulary writes it: one of `control`, or its text.
std::string lark_mark(const Tokenizer& tokenizer, std::span<const TokenId> control,
                      std::string_view spelling);

// A tool as a grammar needs it.
struct ToolSignature {
  std::string name;
  std::string parameters;  // the JSON schema of its arguments, which are an object
};
enum class CallCount : uint8_t { kOne, kOneOrMore };

// A grammar whose sentences are calls of these tools, in the form and with the spacing that `model`'s
// template teaches: a ToolCallReader of its syntax reads each as calls and nothing else. Marks that are
// control tokens of the model are those tokens (kTags here, with <tool_call> as token 7 and its end as 8):
//
//   start: call ("\n" call)*
//   call: <[7]> "\n" (tool_0 | tool_1) "\n" <[8]>
//   tool_0: "{\"name\": \"look\", \"arguments\": " %json {"type":"object"} "}"
//   ...
//
// kObject has one call whatever `count` says: its template teaches no second. With `otherwise`, a JSON
// schema, an answer may be that JSON in place of calls; "": it may not. (kObject takes none: the library
// reads the longest word that fits, so JSON that begins like a call would have to be one.)
// `model.tool_syntax`: kTags, kObject or kList; `tools`: not empty.
Grammar tool_grammar(const ModelText& model, std::span<const ToolSignature> tools, CallCount count,
                     std::string_view otherwise = "");

}  // namespace baton::text
