#include "coordinator/gateway/api_error.h"

#include <algorithm>

#include "coordinator/gateway/json_writer.h"

namespace baton::coordinator {
namespace {

const char* messages_error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

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

std::string messages_error_json(const ApiError& error, std::string_view request_id) {
  JsonWriter w;
  w.open('{').field("type", "error").key("error").open('{');
  w.field("type", messages_error_type(error.status)).field("message", error.message).close('}');
  w.field("request_id", request_id).close('}');
  return w.take();
}

HttpAnswer error_answer(const ApiError& error, const HttpRequest& request) {
  HttpAnswer answer{.status = error.status,
                    .body = request.dialect == ApiDialect::kAnthropic
                                ? messages_error_json(error, request.request_id)
                                : error_json(error)};
  if (error.status == 429 || error.status == 503) {
    const auto ms = std::max<int64_t>(error.retry_after / std::chrono::milliseconds(1), 100);
    answer.fields.push_back({"retry-after", std::to_string((ms + 999) / 1000)});
    answer.fields.push_back({"retry-after-ms", std::to_string(ms)});
  }
  if (error.status == 401) answer.fields.push_back({"www-authenticate", "Bearer"});
  return answer;
}

}  // namespace baton::coordinator
