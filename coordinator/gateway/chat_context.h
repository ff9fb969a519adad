#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <string>

#include "coordinator/gateway/json_fields.h"
#include "text/model_text.h"

namespace baton::coordinator {

struct ChatContext {
  std::string json;    // what the chat template is rendered with (text/chat_template.h)
  bool tools = false;  // some are offered to the model
};

// Reads messages, tools, tool_choice, documents, add_generation_prompt and chat_template_kwargs. Text parts
// become one string, tool call arguments an object, as vLLM does; no content of an assistant's or tool's
// message is "", a `function_call` one of `tool_calls`; role developer is system for a template that does not
// know it, role function is tool for one that knows that. Tools are refused when the model's template takes
// none. Errors are in `fields`.
ChatContext read_chat_context(JsonFields& fields, const text::ModelText& model);

}  // namespace baton::coordinator
