#pragma once

#include <boost/json/fwd.hpp>
#include <expected>

#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/chat_body.h"

namespace baton::coordinator {

// A body of Anthropic's POST /v1/messages as the body of a chat that asks for the same: `system` and content
// blocks become messages, tool_use and tool_result calls and messages of tools, thinking what was thought
// before, input_schema a function's parameters, output_config.format a response_format. `stop_sequences` and
// `max_tokens` keep their names, of the other fields those that sample stay. An answer begun in the last
// message is gone on with. Turns of one role in a row are one turn.
//
//   {"system": "S", "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
//    "content": "4"}, {"type": "text", "text": "and?"}]}]}
//   {"messages": [{"role": "system", "content": [{"type": "text", "text": "S"}]},
//    {"role": "tool", "tool_call_id": "t", "content": "4"}, {"role": "user", "content": [{... "and?"}]}]}
//
// Format: docs.anthropic.com, API reference, Messages; version 2023-06-01. Thread: any.
// `to_answer`: false reads a body that is only to be counted, which has no max_tokens.
std::expected<ChatBody, ApiError> messages_as_chat(const boost::json::object& body, bool to_answer);

}  // namespace baton::coordinator
