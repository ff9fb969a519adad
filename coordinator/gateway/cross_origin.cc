#include "coordinator/gateway/cross_origin.h"

#include <algorithm>

namespace baton::coordinator {

std::string_view reading_origin(const std::vector<std::string>& allowed, const HttpRequest& request,
                                RouteRole role) {
  const std::string_view origin = request.field("origin");
  if (role == RouteRole::kOperator || origin.empty()) return {};
  const bool listed =
      std::ranges::any_of(allowed, [&](const std::string& a) { return a == "*" || a == origin; });
  return listed ? origin : std::string_view();
}

bool is_preflight(const HttpRequest& request) {
  return request.method == "OPTIONS" && !request.field("access-control-request-method").empty();
}

// The asterisk is for the fields that clients' libraries add of their own; it does not cover authorization.
HttpAnswer preflight_answer(std::string methods) {
  return {.status = 204,
          .content_type = "",
          .fields = {{"access-control-allow-methods", std::move(methods)},
                     {"access-control-allow-headers", "authorization, content-type, x-request-id, *"},
                     {"access-control-max-age", "600"}}};
}

std::vector<HttpField> cross_origin_fields(std::string_view origin) {
  return {{"access-control-allow-origin", std::string(origin)},
          {"access-control-expose-headers", "*"},
          {"vary", "Origin"}};
}

}  // namespace baton::coordinator
