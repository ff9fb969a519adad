#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/gateway/json_fields.h"
#include "text/model_text.h"
#include "text/tool_grammar.h"

namespace baton::coordinator {

enum class ToolChoice : uint8_t { kAuto, kNone, kRequired, kNamed };

struct ChatContext {
  std::string json;    // what the chat template is rendered with (text/chat_template.h)
  bool tools = false;  // some are offered to the model
  ToolChoice choice = ToolChoice::kAuto;
  bool begun = false;  // the answer is, by the last message
  std::string named;   // kNamed: the tool, which is one of those offered
};

// Reads messages, tools, tool_choice, documents, add_generation_prompt, continue_final_message and
// chat_template_kwargs. Text parts
// become one string, tool call arguments an object, as vLLM does; no content of an assistant's or tool's
// message is "", a `function_call` one of `tool_calls`; role developer is system for a template that does not
// know it, role function is tool for one that knows that. Tools are refused when the model's template takes
// none. Errors are in `fields`.
ChatContext read_chat_context(JsonFields& fields, const text::ModelText& model);

// The tools that an answer to `chat` may call, of a body whose tools were read without an error.
std::vector<text::ToolSignature> tool_signatures(JsonFields& fields, const ChatContext& chat);

}  // namespace baton::coordinator
