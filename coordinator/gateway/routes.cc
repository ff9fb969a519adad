#include "coordinator/gateway/routes.h"

#include <algorithm>

#include "base/cat.h"

namespace baton::coordinator {
namespace {

bool matches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with("/*")) return pattern == path;
  pattern.remove_suffix(1);
  return path.size() > pattern.size() && path.starts_with(pattern);
}

}  // namespace

absl::Status RouteTable::add(HttpRoute route) {
  const std::string name = cat(route.method, " ", route.path);
  if (route.role < RouteRole::kPublic || route.role > RouteRole::kOperator)
    return absl::InvalidArgumentError(cat("route ", name, " declares no role"));
  if (!route.path.starts_with('/') || route.method.empty() || !route.handler)
    return absl::InvalidArgumentError(cat("route ", name, " is incomplete"));
  for (const auto& r : routes_)
    if (r.method == route.method && r.path == route.path)
      return absl::AlreadyExistsError(cat("route ", name, " is there twice"));
  routes_.push_back(std::move(route));
  return absl::OkStatus();
}

RouteTable::Match RouteTable::find(std::string_view method, std::string_view path) const {
  if (method == "HEAD") method = "GET";
  if (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  Match match;
  for (const auto& r : routes_) {
    if (!matches(r.path, path)) continue;
    match.role = std::max(match.role, r.role);
    match.dialect = r.dialect;
    if (r.method == method) {
      if (!match.route || match.route->path.ends_with("/*")) match.route = &r;
    } else if (match.allow.find(r.method) == std::string::npos) {
      match.allow += cat(match.allow.empty() ? "" : ", ", r.method);
    }
  }
  return match;
}

}  // namespace baton::coordinator
