#include "coordinator/gateway/api_error.h"

#include <algorithm>

#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {

ApiError invalid_value(std::string param, std::string message) {
  return {.status = 400, .message = std::move(message), .param = std::move(param), .code = "invalid_value"};
}

ApiError not_supported(std::string param, std::string message) {
  return {
      .status = 400, .message = std::move(message), .param = std::move(param), .code = "unsupported_value"};
}

ApiError overloaded(std::string message, Duration retry_after) {
  return {.status = 429,
          .message = std::move(message),
          .type = "rate_limit_error",
          .code = "overloaded",
          .retry_after = retry_after};
}

ApiError not_ready(std::string message, Duration retry_after) {
  return {.status = 503,
          .message = std::move(message),
          .type = "service_unavailable_error",
          .code = "not_ready",
          .retry_after = retry_after};
}

ApiError from_status(const absl::Status& status, Duration retry_after) {
  std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return invalid_value("", std::move(message));
    case absl::StatusCode::kResourceExhausted:
      return overloaded(std::move(message), retry_after);
    case absl::StatusCode::kUnavailable:
      return not_ready(std::move(message), retry_after);
    case absl::StatusCode::kDeadlineExceeded:
      return {
          .status = 504, .message = std::move(message), .type = "timeout_error", .code = "deadline_exceeded"};
    default:
      return {.status = 500, .message = std::move(message), .type = "server_error", .code = "internal_error"};
  }
}

std::string error_json(const ApiError& error) {
  JsonWriter w;
  w.open('{').key("error").open('{').field("message", error.message).field("type", error.type);
  w.key("param");
  error.param.empty() ? w.null() : w.value(error.param);
  w.key("code");
  error.code.empty() ? w.null() : w.value(error.code);
  w.close('}').close('}');
  return w.take();
}

HttpAnswer error_answer(const ApiError& error) {
  HttpAnswer answer{.status = error.status, .body = error_json(error)};
  if (error.status == 429 || error.status == 503) {
    const auto ms = std::max<int64_t>(error.retry_after / std::chrono::milliseconds(1), 100);
    answer.fields.push_back({"retry-after", std::to_string((ms + 999) / 1000)});
    answer.fields.push_back({"retry-after-ms", std::to_string(ms)});
  }
  if (error.status == 401) answer.fields.push_back({"www-authenticate", "Bearer"});
  return answer;
}

}  // namespace baton::coordinator
