#include "coordinator/gateway/access.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "base/cat.h"
#include "base/log.h"
#include "coordinator/gateway/ascii.h"

namespace baton::coordinator {
namespace {

constexpr auto kLookAgain = std::chrono::seconds(1);
constexpr std::string_view kLocalTenant = "local";

// OpenAI's clients send the first, others the second.
std::string_view presented_key(const HttpRequest& request) {
  std::string_view authorization = request.field("authorization");
  if (lower_case(authorization.substr(0, 7)) == "bearer ") {
    authorization.remove_prefix(7);
    while (authorization.starts_with(' ')) authorization.remove_prefix(1);
    return authorization;
  }
  return request.field("x-api-key");
}

ApiError unauthorized(std::string message, std::string code) {
  return {.status = 401, .message = std::move(message), .code = std::move(code)};
}

ApiError forbidden(std::string message) {
  return {.status = 403, .message = std::move(message), .type = "permission_error", .code = "forbidden"};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Access>> Access::create(AccessOptions options) {
  std::unique_ptr<Access> out(new Access(std::move(options)));
  if (out->options_.keys_file.empty()) return out;
  out->file_.emplace(std::vector{out->options_.keys_file});
  RETURN_IF_ERROR(out->read());
  return out;
}

absl::Status Access::read() {
  std::ifstream in(options_.keys_file, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf()))
    return absl::NotFoundError(
        cat(options_.keys_file, ": cannot be read: ", in ? "it is empty" : std::strerror(errno),
            "; `baton key ", options_.keys_file, " TENANT` makes a key and writes its line"));
  ASSIGN_OR_RETURN(ApiKeys keys, ApiKeys::parse(std::move(text).str(), options_.keys_file));
  if (!options_.local_key.empty())
    keys.add(options_.local_key, {.tenant = std::string(kLocalTenant), .is_operator = true});
  keys_ = std::move(keys);
  return absl::OkStatus();
}

void Access::read_changed(Instant now) {
  if (now < looked_at_ + kLookAgain) return;
  looked_at_ = now;
  if (!file_->changed()) return;
  if (const absl::Status s = read(); s.ok()) {
    log_info("the file of API keys has changed: it holds from now on",
             {{"file", options_.keys_file}, {"keys", keys_.size()}});
  } else {
    log_error("the file of API keys has changed and is no good: the keys before it go on",
              {{"why", std::string(s.message())}});
  }
}

std::optional<ApiError> Access::take_ticket(HttpRequest& request) {
  auto& count = running_[request.tenant];
  if (!count) count = std::make_shared<std::atomic<int>>(0);
  if (*count >= options_.requests_per_tenant)
    return ApiError{.status = 429,
                    .message = cat("tenant ", request.tenant, " has ", options_.requests_per_tenant,
                                   " requests running, as many as it may; try again later"),
                    .type = "rate_limit_error",
                    .code = "rate_limit_exceeded",
                    .retry_after = std::chrono::seconds(1)};
  ++*count;
  request.ticket = std::shared_ptr<void>(count.get(), [count](void*) { --*count; });
  return std::nullopt;
}

std::optional<ApiError> Access::admit(RouteRole role, HttpRequest& request, Instant now) {
  if (role == RouteRole::kPublic) return std::nullopt;
  if (!file_) {
    if (role != RouteRole::kOperator || options_.is_local(request.client)) return std::nullopt;
    return forbidden(cat(request.path,
                         ": not for this client; operators ask from the coordinator's machine, or at the "
                         "address that the manifest's gateway.admin gives"));
  }
  read_changed(now);
  const std::string_view key = presented_key(request);
  if (key.empty())
    return unauthorized("this server wants an API key: send it as `Authorization: Bearer KEY`",
                        "missing_api_key");
  const KeyOwner* owner = keys_.find(key);
  if (owner == nullptr) return unauthorized("this API key is not known here", "invalid_api_key");
  if (role == RouteRole::kOperator && !owner->is_operator)
    return forbidden(cat(request.path, ": wants the key of an operator"));
  request.tenant = owner->tenant;
  if (owner->is_operator || options_.requests_per_tenant == 0) return std::nullopt;
  return take_ticket(request);
}

}  // namespace baton::coordinator
