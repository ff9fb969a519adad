#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/status.h"
#include "coordinator/gateway/http_message.h"

namespace baton::coordinator {

// A refusal, in OpenAI's words: {"error":{"message","type","param","code"}}, param and code a string or null.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;       // "" = null
  std::string code;        // "" = null
  Duration retry_after{};  // with 429 and 503
};

ApiError invalid_value(std::string param, std::string message);
ApiError not_supported(std::string param, std::string message);
// Too much at once: 429.
ApiError overloaded(std::string message, Duration retry_after);
// No worker can take it: 503.
ApiError not_ready(std::string message, Duration retry_after);
// What the request flow said.
ApiError from_status(const absl::Status& status, Duration retry_after);

// In OpenAI's shape.
std::string error_json(const ApiError& error);
// In Anthropic's: {"type":"error","error":{"type","message"},"request_id"}.
std::string messages_error_json(const ApiError& error, std::string_view request_id);
// In the shape of the request's route, with retry-after and retry-after-ms where they belong.
HttpAnswer error_answer(const ApiError& error, const HttpRequest& request);

}  // namespace baton::coordinator
