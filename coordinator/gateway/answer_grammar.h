#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/grammar.h"
#include "coordinator/gateway/json_fields.h"
#include "coordinator/gateway/openai_request.h"

namespace baton::coordinator {

// What a body says its answer must be, in one of several dialects:
//   OpenAI        response_format: {"type": "text" | "json_object" | "json_schema", ...}
//   vLLM          structured_outputs: {json | regex | choice | grammar | json_object};
//                 before that guided_json, guided_regex, guided_choice, guided_grammar
//   llama-server  json_schema, grammar, and a `schema` beside "json_object" in response_format
// Grammars are Lark as llguidance reads it; GBNF is refused. Thread: any.
struct AskedGrammar {
  Grammar grammar;    // empty: nothing was asked
  std::string param;  // the field that asked
};

// Errors are in `fields`: values of a wrong type, two fields that both ask.
AskedGrammar read_answer_grammar(JsonFields& fields);

// Compiles it: what the library does not take is refused here, in its words, rather than by a worker.
// Milliseconds, at the first grammar of a process more. Thread: text pool.
std::optional<ApiError> check_grammar(const AskedGrammar& asked, const RequestContext& context);

// False: reading this body compiles no grammar.
bool may_ask_for_grammar(std::string_view body);

// `schema` as the text of a grammar: JSON on one line, with one space or none behind each comma and colon.
// (Were any white space allowed, small models would write it without end.) A schema that brings its own
// "x-guidance" decides that itself:
//
//   {"type": "object"} -> {"type":"object","x-guidance":{"whitespace_flexible":false, ...}}
std::string one_line_schema(boost::json::object schema);

}  // namespace baton::coordinator
