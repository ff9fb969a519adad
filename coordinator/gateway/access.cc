#include "coordinator/gateway/access.h"

#include <algorithm>
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

// With what has been added to its tokens since it was last seen (a token bucket of one minute).
Access::Tenant& Access::tenant(const std::string& name, Instant now) {
  const auto most = static_cast<double>(options_.tokens_per_minute);
  const auto [it, fresh] = tenants_.try_emplace(name);
  Tenant& t = it->second;
  t.tokens = fresh ? most : std::min(most, t.tokens + most * to_seconds(now - t.at) / 60);
  t.at = now;
  return t;
}

void Access::spent(const std::string& name, int64_t tokens, Instant now) {
  if (options_.tokens_per_minute > 0 && !name.empty())
    tenant(name, now).tokens -= static_cast<double>(tokens);
}

std::optional<ApiError> Access::take_ticket(HttpRequest& request, Instant now) {
  Tenant& t = tenant(request.tenant, now);
  const auto refuse = [&](std::string why, Duration wait) {
    return ApiError{.status = 429,
                    .message = cat("tenant ", request.tenant, " ", why, "; try again later"),
                    .type = "rate_limit_error",
                    .code = "rate_limit_exceeded",
                    .retry_after = wait};
  };
  if (options_.tokens_per_minute > 0 && t.tokens < 0)
    return refuse(cat("has used more than its ", options_.tokens_per_minute, " tokens a minute"),
                  from_seconds(60 * -t.tokens / static_cast<double>(options_.tokens_per_minute)));
  if (options_.requests_per_tenant == 0) return std::nullopt;
  if (*t.running >= options_.requests_per_tenant)
    return refuse(cat("has ", options_.requests_per_tenant, " requests running, as many as it may"),
                  std::chrono::seconds(1));
  ++*t.running;
  request.ticket = std::shared_ptr<void>(t.running.get(), [count = t.running](void*) { --*count; });
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
  return owner->is_operator ? std::nullopt : take_ticket(request, now);
}

}  // namespace baton::coordinator
