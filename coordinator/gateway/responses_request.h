#pragma once

#include <boost/json/fwd.hpp>
#include <expected>

#include "coordinator/gateway/api_error.h"
#include "coordinator/gateway/chat_body.h"

namespace baton::coordinator {

// A body of OpenAI's POST /v1/responses as the body of a chat that asks for the same: `instructions` and the
// items of `input` become messages, text.format a response_format, max_output_tokens max_tokens. Nothing is
// kept between calls, so all that asks for what was (previous_response_id, conversation, item references) is
// refused. ChatBody::told is what the response object repeats.
//
//   {"instructions": "S", "input": [{"role": "user", "content": "hi"},
//    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
//    {"type": "function_call_output", "call_id": "c", "output": "4"}]}
//
// Format: OpenAI's API reference, Responses. Thread: any.
std::expected<ChatBody, ApiError> responses_as_chat(const boost::json::object& body);

}  // namespace baton::coordinator
