#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <string>

#include "coordinator/gateway/json_fields.h"

namespace baton::coordinator {

// Reads messages, tools, documents, add_generation_prompt and chat_template_kwargs and makes the object that
// the chat template is rendered with (text/chat_template.h). Text parts become one string, tool call
// arguments an object, as vLLM does. Errors are in `fields`.
std::string read_chat_context(JsonFields& fields);

}  // namespace baton::coordinator
